"""The receptive field of every catalog layer equals the support of its gradient, box by box."""

import pytest
import torch
from torch import Tensor, nn

from zoo import CATALOG
from zoo.geometry.graph import tensors_in
from zoo.geometry.measure import Layer, measure

SLOW = {"resnet56": pytest.mark.slow}  # the same blocks as resnet20, only more of them
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid)


class Averaging(nn.Module):
    """An average over a max pool's window, so that every tap has a gradient."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        average = nn.functional.avg_pool1d if isinstance(self.pool, nn.MaxPool1d) else nn.functional.avg_pool2d
        return average(x, self.pool.kernel_size, self.pool.stride, self.pool.padding, self.pool.ceil_mode)


def transparent(name: str) -> nn.Module:
    """Return a network with positive weights, identity norms and activations, and average instead of max pools.

    Nothing cancels and no unit is dead, so the gradient is positive exactly where a path exists.
    """
    network = CATALOG[name].builder().eval().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    for path, module in list(network.named_modules()):
        if isinstance(module, NORMS + ACTIVATIONS) or type(module).__name__ in ("LayerNorm2d", "BatchNormAct2d"):
            network.set_submodule(path, nn.Identity())
        if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
            network.set_submodule(path, Averaging(module))
    return network


def outputs_of(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the output of every module call, by the layer's name."""
    outputs: dict[str, Tensor] = {}

    def record_output(path: str):
        def hook(_module, _args, result):
            call = sum(name.partition("@")[0] == path for name in outputs)
            outputs[path + (f"@{call}" if call else "")] = next(tensors_in(result))

        return hook

    for path, module in network.named_modules():
        module.register_forward_hook(record_output(path))
    network(x)
    return outputs


def support(value: Tensor, unit: tuple[int, ...], x: Tensor) -> list[range]:
    """Return the smallest box around the pixels on which the sum over channels at `unit` depends."""
    (gradient,) = torch.autograd.grad(value[(0, slice(None), *unit)].sum(), x, retain_graph=True)
    pixels = gradient[0].abs().sum(0).nonzero()
    return [range(int(axis.min()), int(axis.max()) + 1) for axis in pixels.T]


def units_to_try(layer: Layer) -> list[tuple[int, ...]]:
    """Return two corners and the middle unit of a map, or the empty index of a vector."""
    sizes = layer.output[2:]
    return list({tuple(0 for _ in sizes), tuple(size - 1 for size in sizes), tuple(size // 2 for size in sizes)})


def boxes(layer: Layer, unit: tuple[int, ...]) -> list[range]:
    """Return the box of a map's unit, or of all units of a vector together, as it may be a flattened map."""
    if unit:
        return [field.box(i if field.units > 1 else 0) for field, i in zip(layer.fields, unit, strict=True)]
    return [range(field.box(0).start, field.box(field.units - 1).stop) for field in layer.fields]


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CATALOG])
def test_fields_are_the_support_of_the_gradient(name):
    """The boxes of corner and middle units equal the gradient's support for every layer that is a map or a vector."""
    network = transparent(name)
    input_size = tuple(network.pretrained_cfg["input_size"])
    x = torch.rand(1, *input_size, dtype=torch.float64).requires_grad_()
    outputs = outputs_of(network, x)
    with torch.device("meta"):
        layers = measure(CATALOG[name].builder().eval(), input_size).layers
    checked = 0
    for layer in layers:
        if layer.name not in outputs or len(layer.output) not in (2, 2 + len(input_size) - 1):
            continue
        for unit in units_to_try(layer):
            assert boxes(layer, unit) == support(outputs[layer.name], unit, x), (layer.name, unit)
            assert all(field.exact for field in layer.fields), layer.name
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("name", CATALOG)
def test_units_seeing_is_the_inverse_of_box(name):
    """`units_seeing` returns exactly the units whose box contains the pixel."""
    with torch.device("meta"):
        network = CATALOG[name].builder().eval()
    for layer in measure(network, network.pretrained_cfg["input_size"]).layers:
        for field in layer.fields:
            for pixel in range(field.pixels):
                expected = [unit for unit in range(field.units) if pixel in field.box(unit)]
                assert list(field.units_seeing(pixel)) == expected, layer.name
