"""Pools with ceil_mode, whose last window PyTorch drops where it would start in the padding."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.check.run import check_model
from export.errors import ConversionError
from export.source.module import plain_preprocessing

POOLS = {
    "maximum": nn.MaxPool2d(2, 3, padding=1, ceil_mode=True),
    "maximum, one axis": nn.MaxPool2d((2, 3), (3, 2), padding=1, ceil_mode=True),
    "mean": nn.AvgPool2d(2, 3, padding=1, ceil_mode=True),
    "mean, one axis": nn.AvgPool2d((2, 3), (3, 2), padding=1, ceil_mode=True),
    "mean of the image, one axis": nn.AvgPool2d((2, 3), (3, 2), 1, ceil_mode=True, count_include_pad=False),
    "mean without padding, one axis": nn.AvgPool2d((1, 3), 2, ceil_mode=True),
    "every second": nn.MaxPool2d(1, 2, ceil_mode=True),
}


@pytest.mark.parametrize("name", POOLS)
def test_last_window(name: str, tmp_path: Path) -> None:
    """The file has PyTorch's size and numbers, and all witnesses of the shapes agree."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), POOLS[name]).eval()
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(network, settings, preprocessing=plain_preprocessing((3, 10, 14)))
    x = np.random.default_rng(0).standard_normal((2, 3, 10, 14), np.float32) - 3
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": x})[0], network(torch.from_numpy(x)), atol=1e-5)
    assert "ceil_mode" not in {
        attribute.name for node in onnx.load(exported.folder / "model.onnx").graph.node for attribute in node.attribute
    }
    layer = exported.manifest.layer_map.layers[1]
    assert {"geometry", "onnx", "pytorch", "runtime"} <= set(layer.shape_witnesses)
    assert [failure for report in check_model(tmp_path) for failure in report.failures] == []


@pytest.mark.parametrize("pool", [POOLS["maximum"], POOLS["every second"]])
def test_dynamic_size(pool: nn.Module, tmp_path: Path) -> None:
    """A pool that drops a window at some sizes only is rejected, with its layer and a remedy."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), pool).eval()
    settings = ExportSettings(to=tmp_path, name="n", raw=True, dynamic_size=True)
    with pytest.raises(ConversionError, match=r"layer '1' \(MaxPool\) drops its last window .* Set ceil_mode=False"):
        export_model(network, settings, preprocessing=plain_preprocessing((3, 10, 14)))
    assert list(tmp_path.iterdir()) == []
