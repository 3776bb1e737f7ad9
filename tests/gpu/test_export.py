"""Exports agree with PyTorch on the GPU, too."""

from pathlib import Path

import pytest

from serve.engine.session import Session
from tests.gpu.conftest import images, in_pytorch, worst
from zoo.runs.load import LoadedNetwork

pytestmark = pytest.mark.gpu
TOLERANCES = {"fp32": 5e-3, "fp16": 3e-2}  # a GPU multiplies fp32 in TF32, whose steps are 5e-4, by default


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_logits(models: Path, network: LoadedNetwork, device: str, precision: str, rows: int) -> None:
    """A session of the export, on the device, gives PyTorch's logits."""
    session = Session.open(models / precision / "1" / "model.onnx", device)  # type: ignore[arg-type]
    assert session.device == device
    x = images(rows, network)
    found = session.run({"image": x}, ["logits"])["logits"]
    assert worst(found, in_pytorch(network, x, "")[""]) < TOLERANCES[precision]
