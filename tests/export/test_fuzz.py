"""Networks of many kinds: each is exported, or rejected by an ExportError that a step expects, in one line."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

from export import ExportSettings, export_model
from export.errors import ExportError, UnexpectedError
from export.source.module import plain_preprocessing

SIZE = (3, 12, 12)
QUICK = 8  # networks of each family in the default suite, drawn by SEED
SEED = 0


class Calls(nn.Module):
    """Applies `function` to a feature map (N, 4, 12, 12), with `layer` as its first argument."""

    def __init__(self, layer: nn.Module, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer, self.conv(x))


def boxes(x: Tensor) -> list[Tensor]:
    return [torch.tensor([[1.0, 1.0, 8.0, 8.0]])] * x.shape[0]


def pyramid(layer: Any, x: Tensor) -> Any:
    return layer({"0": x, "1": x[..., ::2, ::2]})


def multi_scale(layer: Any, x: Tensor) -> Any:
    return layer({"0": x}, boxes(x), [(12, 12)] * x.shape[0])


def deform(layer: Any, x: Tensor) -> Any:
    return layer(x, x.new_zeros(x.shape[0], 18, 10, 10))


def apply(layer: Any, x: Tensor) -> Any:
    return layer(x)


VISION: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Any]]] = {
    "RoIAlign": (lambda: ops.RoIAlign(2, 1.0, 2), lambda layer, x: layer(x, boxes(x))),
    "RoIPool": (lambda: ops.RoIPool(2, 1.0), lambda layer, x: layer(x, boxes(x))),
    "PSRoIAlign": (lambda: ops.PSRoIAlign(2, 1.0, 2), lambda layer, x: layer(x, boxes(x))),
    "PSRoIPool": (lambda: ops.PSRoIPool(2, 1.0), lambda layer, x: layer(x, boxes(x))),
    "MultiScaleRoIAlign": (lambda: ops.MultiScaleRoIAlign(["0"], 2, 2), multi_scale),
    "DeformConv2d": (lambda: ops.DeformConv2d(4, 4, 3), deform),
    "FeaturePyramidNetwork": (lambda: ops.FeaturePyramidNetwork([4, 4], 4), pyramid),
    "StochasticDepth": (lambda: ops.StochasticDepth(0.5, "row"), apply),
    "SqueezeExcitation": (lambda: ops.SqueezeExcitation(4, 2), apply),
    "Conv2dNormActivation": (lambda: ops.Conv2dNormActivation(4, 4), apply),
    "FrozenBatchNorm2d": (lambda: ops.FrozenBatchNorm2d(4), apply),
    "MLP": (lambda: ops.MLP(12, [6, 5]), apply),
    "Permute": (lambda: ops.Permute([0, 2, 3, 1]), apply),
    "Permute batch": (lambda: ops.Permute([1, 0, 2, 3]), apply),
    "DropBlock2d": (lambda: ops.DropBlock2d(0.3, 3), apply),
    "drop_block2d": (nn.Identity, lambda _, x: ops.drop_block2d(x, 0.3, 3)),
    "nms": (nn.Identity, lambda _, x: ops.nms(x[0, :, 0, :4], x[0, :, 0, 0], 0.5)),
    "box_iou": (nn.Identity, lambda _, x: ops.box_iou(x[0, :, 0, :4], x[0, :, 0, :4])),
    "sigmoid_focal_loss": (nn.Identity, lambda _, x: ops.sigmoid_focal_loss(x, x)),
    "deform with offsets of the input": (
        lambda: ops.DeformConv2d(4, 4, 1),
        lambda layer, x: layer(x, x[:, :2]),
    ),
}


def raises(*_: Any) -> Any:
    raise RuntimeError("broken\nin two lines")


def exits(*_: Any) -> Any:
    raise SystemExit(3)


HOOKS: dict[str, Callable[..., Any]] = {
    "raises": raises,
    "exits": exits,
    "returns a string": lambda _module, _args, _output: "text",
    "returns a tuple": lambda _module, _args, output: (output, output),
    "returns a number": lambda _module, _args, _output: 3,
    "returns another shape": lambda _module, _args, output: output[..., :3],
    "returns float64": lambda _module, _args, output: output.double(),
    "returns a constant": lambda _module, _args, output: torch.ones_like(output),
    "returns NaN": lambda _module, _args, output: output * torch.nan,
    "returns noise": lambda _module, _args, output: torch.rand_like(output),
    "changes in place": lambda _module, _args, output: output.mul_(2),
    "reads a value": lambda _module, _args, output: output * float(output.max()),
    "branches": lambda _module, _args, output: output if output.sum() > 0 else -output,
    "deletes a weight": lambda module, _args, _output: delattr(module, "bias"),
}


def vision(name: str) -> nn.Module:
    make, function = VISION[name]
    return Calls(make(), function)


def hooked(name: str) -> nn.Module:
    network = Calls(nn.Conv2d(4, 4, 1), apply)
    network.layer.register_forward_hook(HOOKS[name])
    return network


def drawn(names: list[str]) -> list[Any]:
    """Return all names, of which those that are not drawn are slow."""
    quick = set(random.Random(SEED).sample(names, QUICK))
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def export_or_reject(network: nn.Module, to: Path) -> None:
    torch.manual_seed(0)
    try:
        export_model(network.eval(), ExportSettings(to, "n", raw=True), preprocessing=plain_preprocessing(SIZE))
    except ExportError as error:
        assert not isinstance(error, UnexpectedError)  # noqa: PT017 - an export is a success, too
        assert "\n" not in str(error)  # noqa: PT017
        assert not any(to.iterdir())


@pytest.mark.filterwarnings("ignore")  # PyTorch's, for what these networks do
@pytest.mark.parametrize("name", drawn(list(VISION)))
def test_torchvision(name: str, tmp_path: Path) -> None:
    """Each operation of torchvision is exported or rejected."""
    export_or_reject(vision(name), tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", drawn(list(HOOKS)))
def test_hooks(name: str, tmp_path: Path) -> None:
    """A network with a hook that fails, or returns something else, is exported or rejected."""
    export_or_reject(hooked(name), tmp_path)
