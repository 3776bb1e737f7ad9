"""Networks that divide by the deviation of a map, which float32 knows only as well as it sums."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional

from export import Exported, ExportSettings, export_model, pipeline
from export.convert.convert import convert
from export.errors import ParityError
from export.source.module import plain_preprocessing
from export.tracing.lane_sums import NormsSeen, SumsInLanes
from zoo.networks.preprocessing import Preprocessing

Way = Callable[[Tensor], Tensor]
RULE = plain_preprocessing((3, 32, 32))

SUMS: dict[str, Way] = {
    "group norm": nn.GroupNorm(2, 6),
    "group norm without weights": nn.GroupNorm(3, 6, affine=False),
    "instance norm": nn.InstanceNorm2d(6, affine=True),
    "instance norm in training": nn.InstanceNorm2d(6, track_running_stats=True).train(),
    "instance norm with statistics": nn.InstanceNorm2d(6, track_running_stats=True).eval(),
    "batch norm": nn.BatchNorm2d(6).eval(),
    "layer norm": nn.LayerNorm((6, 9, 11)),
    "mean": lambda x: x.mean(),
    "mean of places": lambda x: x.mean((2, 3), keepdim=True),
    "mean of others": lambda x: x.mean((0, -1)),
    "pool": nn.AdaptiveAvgPool2d(1),
    "sum": lambda x: x.sum(),
    "sum of places": lambda x: x.sum((2, 3)),
    "sum in float64": lambda x: x.sum((2, 3), dtype=torch.float64),
    "variance": lambda x: x.var((2, 3), unbiased=False, keepdim=True),
    "variance of all": lambda x: x.var(),
    "deviation": lambda x: x.std((1, 3)),
    "both": lambda x: torch.cat(torch.var_mean(x, (2, 3), correction=1)),
    "whole numbers": lambda x: (10 * x).long().sum((1, 2)),
}


@pytest.mark.parametrize("way", SUMS.values(), ids=SUMS)
def test_it_is_the_same_sum(way: Way) -> None:
    """In another order, and so with the same result up to rounding."""
    x = torch.randn(4, 6, 9, 11, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = way(x)
        with SumsInLanes():
            got = way(x)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_it_is_as_far_from_float64_as_onnxruntime_is(flat: float) -> None:
    """Many times farther than PyTorch, which sums more exactly."""
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(1, 16).eval(), torch.randn(2, 16, 64, 64) * (1 - flat) + torch.randn(1, 16, 1, 1)
    model = convert(norm, (16, 64, 64), 20, ["y"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = norm(x)
        with SumsInLanes():
            in_lanes = norm(x)
        exact = norm.double()(x.double())
    theirs = torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])
    pytorch, lanes, runtime = (float((each - exact).abs().max()) for each in (ours, in_lanes, theirs))
    assert lanes > 3 * pytorch
    assert 0.1 < runtime / lanes < 3


class Norm(nn.Module):
    """An instance norm as people write it."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred / torch.sqrt((centred**2).mean((2, 3), keepdim=True) + 1e-5)


class Gate(nn.Module):
    """Squeeze and excitation: a mean, and no deviation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


class OverChannels(nn.Module):
    """A layer norm of each place."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("module", "seen"),
    [
        (nn.GroupNorm(2, 4), True),
        (nn.InstanceNorm2d(4), True),
        (nn.LayerNorm((4, 32, 32)), True),
        (Norm(), True),
        (nn.BatchNorm2d(4), False),
        (Gate(), False),
        (OverChannels(), False),
    ],
)
def test_what_is_seen(module: nn.Module, seen: bool) -> None:
    """Only what divides by a deviation over many places: other networks are not run once more."""
    with torch.no_grad(), NormsSeen() as norms:
        module.eval()(torch.randn(2, 4, 32, 32))
    assert norms.any == seen


def network(norm: Callable[[int], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    blocks = [
        layer
        for taken, given in ((3, 8), (8, 16))
        for layer in (nn.Conv2d(taken, given, 3, padding=1), norm(given), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def written(module: nn.Module, to: Path, rule: Preprocessing = RULE, **how: bool) -> Exported:
    return export_model(module, ExportSettings(to=to, name="network", **how), preprocessing=rule)


@pytest.mark.parametrize(
    ("norm", "raw", "left_out"),
    [
        (lambda c: nn.GroupNorm(c // 2, c), True, False),
        (lambda c: nn.InstanceNorm2d(c, affine=True), False, True),
        (lambda _: Norm(), True, True),
    ],
    ids=["group", "instance", "by hand"],
)
def test_such_a_net_is_exported(norm: Callable[[int], nn.Module], raw: bool, left_out: bool, tmp_path: Path) -> None:
    """Every layer of it is in the file; a flat image of which it leaves what rounding does is left out, and told."""
    done = written(network(norm), tmp_path / "models", raw=raw)
    assert [layer.reason for layer in done.manifest.layer_map.layers if layer.reason] == []
    inputs = list(done.manifest.parity.inputs)
    assert (inputs[:2], "zeros" not in inputs) == (["noise", "noise"], left_out)
    assert ("Not on zeros" in done.report.read_text()) == left_out


def test_other_nets_are_compared_on_all(exported: Exported) -> None:
    """Nothing is left out, and the page says nothing of it."""
    inputs = list(exported.manifest.parity.inputs)
    assert inputs == ["noise", "noise", "zeros", "half and half", "a ramp"]
    assert "Not on" not in exported.report.read_text()


def test_a_wrong_norm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What float32 cannot do better is allowed, and no more: not another epsilon."""
    honest = pipeline.convert

    def lying(*args: object, **how: object) -> onnx.ModelProto:
        model = honest(*args, **how)  # type: ignore[arg-type]
        for node in model.graph.node:
            if node.op_type == "InstanceNormalization":
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("epsilon", 2e-4))
        return model

    monkeypatch.setattr(pipeline, "convert", lying)
    with pytest.raises(ParityError, match="departs from PyTorch"):
        written(network(lambda c: nn.GroupNorm(2, c)), tmp_path / "models", raw=True)
    assert not (tmp_path / "models").exists()
