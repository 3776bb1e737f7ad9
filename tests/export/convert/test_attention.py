"""Attention with other numbers of dimensions than four, which torch.onnx does not translate itself."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from export import ExportSettings, export_model
from export.source.module import plain_preprocessing

SIZE = (4, 6, 8)


class Attention(nn.Module):
    """Attention over the width of an image, with its channels and rows before the positions."""

    def __init__(self, shape: tuple[int, ...], mask: Tensor | None = None, *, is_causal: bool = False) -> None:
        super().__init__()
        self.shape, self.is_causal = shape, is_causal
        self.register_buffer("mask", mask)
        self.query = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], *self.shape)
        attended = scaled_dot_product_attention(self.query(x), x, x, attn_mask=self.mask, is_causal=self.is_causal)
        return attended.flatten(1)


MASK = torch.arange(24).reshape(4, 6) % 3 > 0


@pytest.mark.parametrize(
    "network",
    [
        Attention((24, 8)),
        Attention((24, 8), is_causal=True),
        Attention((4, 6, 8)),
        Attention((2, 2, 6, 8)),
        Attention((2, 2, 6, 8), torch.linspace(-1, 1, 36).reshape(6, 6)),
        Attention((2, 2, 6, 8), MASK.any(0).expand(6, 6) & ~torch.eye(6, dtype=torch.bool)),
    ],
    ids=["3", "3, causal", "4", "5", "5, mask", "5, mask of booleans"],
)
def test_dimensions(network: nn.Module, tmp_path: Path) -> None:
    """The file computes what PyTorch computes, for any number of dimensions."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(network.eval(), settings, preprocessing=plain_preprocessing(SIZE))
    x = np.random.default_rng(0).normal(size=(3, *SIZE)).astype(np.float32)
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
