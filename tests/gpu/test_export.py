"""Parity of exported models with PyTorch on the GPU."""

from pathlib import Path

import pytest

from serve.engine.session import Session
from tests.gpu.conftest import images, max_relative_error, reference_outputs
from zoo.runs.load import LoadedNetwork

pytestmark = pytest.mark.gpu
TOLERANCES = {"fp32": 5e-3, "fp16": 3e-2}  # by default a GPU multiplies fp32 in TF32, whose resolution is 5e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_logits(models: Path, network: LoadedNetwork, device: str, precision: str, rows: int) -> None:
    """A session on the device computes PyTorch's logits."""
    session = Session.open(models / precision / "1" / "model.onnx", device)  # type: ignore[arg-type]
    assert session.device == device
    x = images(rows, network)
    logits = session.run({"image": x}, ["logits"])["logits"]
    assert max_relative_error(logits, reference_outputs(network, x, "")[""]) < TOLERANCES[precision]
