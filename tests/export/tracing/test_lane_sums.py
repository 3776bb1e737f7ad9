"""Summation in lanes, and the export of networks with norms, whose float32 error depends on the order of summation."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional

from export import Exported, ExportSettings, export_model
from export.convert.convert import convert
from export.errors import ParityError
from export.interface.interface import one_input
from export.source.module import plain_preprocessing
from export.steps import convert_network
from export.tracing.lane_sums import LaneSummation, SumDetector
from zoo.networks.preprocessing import Preprocessing

Operation = Callable[[Tensor], Tensor]
PREPROCESSING = plain_preprocessing((3, 32, 32))

SUMS: dict[str, Operation] = {
    "group norm": nn.GroupNorm(2, 6),
    "group norm without weights": nn.GroupNorm(3, 6, affine=False),
    "instance norm": nn.InstanceNorm2d(6, affine=True),
    "instance norm in training mode": nn.InstanceNorm2d(6, track_running_stats=True).train(),
    "instance norm with statistics": nn.InstanceNorm2d(6, track_running_stats=True).eval(),
    "batch norm": nn.BatchNorm2d(6).eval(),
    "layer norm": nn.LayerNorm((6, 9, 11)),
    "mean": lambda x: x.mean(),
    "spatial mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean over batch and width": lambda x: x.mean((0, -1)),
    "pool": nn.AdaptiveAvgPool2d(1),
    "sum": lambda x: x.sum(),
    "spatial sum": lambda x: x.sum((2, 3)),
    "sum in float64": lambda x: x.sum((2, 3), dtype=torch.float64),
    "variance": lambda x: x.var((2, 3), unbiased=False, keepdim=True),
    "variance of all elements": lambda x: x.var(),
    "deviation": lambda x: x.std((1, 3)),
    "variance and mean": lambda x: torch.cat(torch.var_mean(x, (2, 3), correction=1)),
    "integers": lambda x: (10 * x).long().sum((1, 2)),
}


@pytest.mark.parametrize("operation", SUMS.values(), ids=SUMS)
def test_same_sum(operation: Operation) -> None:
    """Summation in lanes has the same result as PyTorch's, up to rounding."""
    x = torch.randn(4, 6, 9, 11, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = operation(x)
        with LaneSummation():
            actual = operation(x)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_same_error_as_onnxruntime(flat: float) -> None:
    """The error of summation in lanes is similar to onnxruntime's, and larger than PyTorch's."""
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(1, 16).eval(), torch.randn(2, 16, 64, 64) * (1 - flat) + torch.randn(1, 16, 1, 1)
    model = convert(norm, one_input((16, 64, 64), ("y",)), 20)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        torch_result = norm(x)
        with LaneSummation():
            lanes_result = norm(x)
        float64 = norm.double()(x.double())
    runtime_result = torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])
    results = (torch_result, lanes_result, runtime_result)
    pytorch, lanes, runtime = (float((result - float64).abs().max()) for result in results)
    assert lanes > 3 * pytorch
    assert 0.1 < runtime / lanes < 3


class Norm(nn.Module):
    """A handwritten instance norm."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred / torch.sqrt((centred**2).mean((2, 3), keepdim=True) + 1e-5)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


class OverChannels(nn.Module):
    """A layer norm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("module", "detected"),
    [
        (nn.GroupNorm(2, 4), True),
        (nn.InstanceNorm2d(4), True),
        (nn.LayerNorm((4, 32, 32)), True),
        (Norm(), True),
        (nn.BatchNorm2d(4), False),
        (Gate(), True),
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.AvgPool2d(2), False),
        (OverChannels(), False),
    ],
)
def test_detection(module: nn.Module, detected: bool) -> None:
    """Only sums, means and deviations over many pixels are detected; other networks need no further run."""
    with torch.no_grad(), SumDetector() as sums:
        module.eval()(torch.randn(2, 4, 32, 32))
    assert sums.detected == detected


def network(norm: Callable[[int], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    blocks = [
        layer
        for channels_in, channels_out in ((3, 8), (8, 16))
        for layer in (
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            norm(channels_out),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def export(module: nn.Module, to: Path, *, raw: bool, preprocessing: Preprocessing = PREPROCESSING) -> Exported:
    return export_model(module, ExportSettings(to=to, name="network", raw=raw), preprocessing=preprocessing)


@pytest.mark.parametrize(
    ("norm", "raw", "zeros_replaced"),
    [
        (lambda c: nn.GroupNorm(c // 2, c), True, False),
        (lambda c: nn.InstanceNorm2d(c, affine=True), False, True),
        (lambda _: Norm(), True, True),
    ],
    ids=["group", "instance", "handwritten"],
)
def test_network_with_norms(norm: Callable[[int], nn.Module], raw: bool, zeros_replaced: bool, tmp_path: Path) -> None:
    """Every layer is in the file; a flat image whose results are only rounding errors is replaced."""
    done = export(network(norm), tmp_path / "models", raw=raw)
    assert [layer.reason for layer in done.manifest.layer_map.layers if layer.reason] == []
    inputs = list(done.manifest.parity.inputs)
    assert (inputs[:2], "zeros" not in inputs) == (["noise", "noise"], zeros_replaced)
    assert ("Skipped: zeros" in done.report.read_text()) == zeros_replaced


@pytest.mark.parametrize("seed", [0, 4])
def test_a_large_mean(seed: int, tmp_path: Path) -> None:
    """The mean of a large map, in which values cancel, is within the tolerance of a sum in another order."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    done = export(nn.Sequential(*layers).eval(), tmp_path, raw=False, preprocessing=plain_preprocessing((3, 60, 60)))
    worst = max(check.reference_error for check in done.manifest.parity.checks)
    assert worst > 2e-7


def test_network_without_norms(exported: Exported) -> None:
    """No probe input is replaced, and the report mentions none."""
    inputs = list(exported.manifest.parity.inputs)
    assert inputs == ["noise", "noise", "zeros", "half and half", "a ramp"]
    assert "Skipped:" not in exported.report.read_text()


def test_a_wrong_norm_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm with another epsilon is rejected, although the tolerance covers its rounding errors."""
    original = convert_network.convert

    def with_wrong_epsilon(*args: object, **options: object) -> onnx.ModelProto:
        model = original(*args, **options)  # type: ignore[arg-type]
        for node in model.graph.node:
            if node.op_type == "InstanceNormalization":
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("epsilon", 2e-4))
        return model

    monkeypatch.setattr(convert_network, "convert", with_wrong_epsilon)
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export(network(lambda c: nn.GroupNorm(2, c)), tmp_path / "models", raw=True)
    assert not (tmp_path / "models").exists()
