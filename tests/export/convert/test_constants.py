"""Constants that the exporter's optimiser would remove."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.source.module import plain_preprocessing


class Ink(nn.Module):
    """A weighted mean that divides by a sum which is 0 for a white image, plus `epsilon`."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.fc, self.epsilon = nn.Linear(1, 4), epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ink = torch.relu(1 - x)
        share = ink / (ink.sum((2, 3), keepdim=True) + self.epsilon)
        return self.fc((x * share).sum((2, 3)))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-8, 1e-12])
def test_small_epsilons_stay(epsilon: float, tmp_path: Path) -> None:
    """A white image gives finite logits, equal to PyTorch's."""
    network = Ink(epsilon).eval()
    exported = export_model(
        network, ExportSettings(to=tmp_path, name="ink"), preprocessing=plain_preprocessing((1, 8, 8))
    )
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": np.full((1, 8, 8, 1), 255, np.uint8)})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(torch.ones(1, 1, 8, 8)).numpy(), rtol=1e-6)
