"""A Pad before a MaxPool, which onnxruntime must not fuse with it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.source.module import plain_preprocessing


class Signal(nn.Module):
    """A one-dimensional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pad, self.pool = nn.Conv1d(48, 4, 3), nn.ConstantPad1d(1, 0.0), nn.MaxPool1d(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 16, 16) to (N, 4, 7)."""
        y: torch.Tensor = self.pool(self.pad(self.conv(x.flatten(1, 2))))
        return y


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


@pytest.mark.parametrize(
    "network",
    [
        pooled(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2)),
        pooled(nn.ZeroPad2d((1, 0, 1, 0)), nn.MaxPool2d(3, 2, padding=1)),
        pooled(nn.ConstantPad2d(1, 0.5), nn.MaxPool2d(3, 2, ceil_mode=True)),
        pooled(nn.ConstantPad2d(1, 0.0), nn.AvgPool2d(3, 2)),
        Signal(),
    ],
    ids=["zeros", "padding of its own", "another value", "mean", "signal"],
)
def test_negative_numbers(network: nn.Module, tmp_path: Path) -> None:
    """With a padding of zeros, the maximum of negative values is 0 at the border, in the optimised model, too."""
    torch.manual_seed(0)
    for parameter in (parameter for name, parameter in network.named_parameters() if name.endswith("bias")):
        parameter.data -= 3
    done = export_model(
        network.eval(),
        ExportSettings(to=tmp_path, name="network", raw=True),
        preprocessing=plain_preprocessing((3, 16, 16)),
    )
    x = np.random.default_rng(7).standard_normal((2, 3, 16, 16), np.float32)
    session = onnxruntime.InferenceSession(done.folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(torch.from_numpy(x))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
    layers = {layer.name: layer.status for layer in done.manifest.layer_map.layers}
    assert set(layers.values()) == {1}
    onnx.checker.check_model(str(done.folder / "model.onnx"), full_check=True)
