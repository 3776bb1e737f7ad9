"""Each operation's rule, compared with PyTorch: the output size, and the support of each unit's gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.geometry.measure import Layer, measure
from zoo.layers import BlurPool2d, LocallyConnected1d, TrueConv1d, TrueConv2d

SIZE = (2, 12, 11)


class Step(nn.Module):
    """A module that calls a function of one tensor."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def conv(**options) -> nn.Module:
    return nn.Conv2d(2, 4, options.pop("kernel_size", 3), **options)


def after(*steps) -> nn.Module:
    """Return the steps after a 3x3 convolution with stride 2, so that jumps and starts differ from the image's."""
    modules = [step if isinstance(step, nn.Module) else Step(step) for step in steps]
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), *modules)


EXACT = {
    "plain": conv(),
    "strided": conv(stride=2, padding=1),
    "dilated": conv(dilation=2),
    "grouped": conv(groups=2, padding=1),
    "rectangular": conv(kernel_size=(5, 2), stride=(1, 3), padding=(2, 0)),
    "asymmetric padding": nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), conv(stride=2)),
    "dropped rows, then padding": nn.Sequential(nn.AvgPool2d(5), conv(padding=1)),
    "cropping": nn.Sequential(nn.ZeroPad2d(-2), conv(padding=1)),
    "ceil mode": after(nn.AvgPool2d(2, ceil_mode=True)),
    "ceil mode, last window dropped": after(nn.AvgPool2d(2, 3, padding=1, ceil_mode=True)),
    "ceil mode, rows dropped": after(nn.AvgPool2d(1, 2, ceil_mode=True)),
    "average pool": after(nn.AvgPool2d(3, stride=1, padding=1)),
    "adaptive pool": after(nn.AdaptiveAvgPool2d((3, 2))),
    "global pool": after(nn.AdaptiveAvgPool2d(1)),
    "mean": after(lambda x: x.mean(dim=(2, 3))),
    "transposed, side by side": after(nn.ConvTranspose2d(4, 2, 2, stride=2)),
    "transposed, stride 1": after(nn.ConvTranspose2d(4, 2, 3, padding=1)),
    "nearest, doubled": after(nn.Upsample(scale_factor=2)),
    "slices": after(lambda x: x[:, :, 1:-1:2, 2:]),
    "branches": after(lambda x: torch.cat([F.avg_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 5, 1, 2)], dim=1)),
    "residual": after(lambda x: x + F.avg_pool2d(x, 3, 1, 1)),
    "squeeze and excite": after(lambda x: x * x.mean(dim=(2, 3), keepdim=True)),
    "linear over channels": after(lambda x: x.permute(0, 2, 3, 1), nn.Linear(4, 3), lambda x: x.permute(0, 3, 1, 2)),
    "attention over a row": after(lambda x: x @ (x.transpose(2, 3) @ x)),
    "windows of tokens": after(lambda x: x.reshape(1, 4, 2, 3, 6).mean(3)),
    "flipped kernel": TrueConv2d(2, 4, 3, padding=1, stride=2),
    "unfold": nn.Sequential(nn.Unfold(3, padding=1), Step(lambda x: x.reshape(1, 2, 9, 12, 11).sum(2))),
}
BOUNDED = {
    "dilated, at the border": conv(dilation=2, padding=2),
    "adaptive, not divisible": after(nn.AdaptiveAvgPool2d((4, 4))),
    "transposed": after(nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1)),
    "bilinear": after(nn.Upsample(scale_factor=2, mode="bilinear")),
    "nearest, then a convolution": after(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1)),
    "nearest, to an odd size": after(nn.Upsample(size=(7, 9))),
    "rolled": after(lambda x: x.roll((1, 2), dims=(2, 3))),
    "tokens beside a class token": after(
        lambda x: torch.cat([x.new_ones(1, 4, 1), x.flatten(2)], dim=2)[:, :, 1:].reshape(x.shape)
    ),
}


def positive(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    return network.double().eval()


def supports(network: nn.Module, size: tuple[int, ...]) -> dict[tuple[int, ...], list[range]]:
    """Return, for each position of the output, the box of pixels with a non-zero gradient."""
    x = torch.rand(1, *size, dtype=torch.float64).requires_grad_()
    y = network(x)
    boxes = {}
    for position in itertools.product(*map(range, y.shape[2:])):
        (gradient,) = torch.autograd.grad(y[(0, slice(None), *position)].sum(), x, retain_graph=True)
        pixels = gradient[0].abs().sum(0).nonzero()
        boxes[position] = [range(int(axis.min()), int(axis.max()) + 1) for axis in pixels.T]
    return boxes


def box(layer: Layer, position: tuple[int, ...]) -> list[range]:
    indices = position or (0,) * len(layer.fields)
    return [field.box(index if field.units > 1 else 0) for field, index in zip(layer.fields, indices, strict=True)]


def measured_layer(network: nn.Module, size: tuple[int, ...]) -> Layer:
    geometry = measure(network.float().to("meta"), size)
    assert geometry.unknown == {}
    return geometry.layers[0]


@pytest.mark.parametrize("case", EXACT)
def test_exact_boxes_are_the_gradient_support(case):
    """Every unit's box is the support of its gradient and is marked exact."""
    expected = supports(positive(EXACT[case]), SIZE)
    layer = measured_layer(EXACT[case], SIZE)
    assert {position: box(layer, position) for position in expected} == expected
    assert all(field.exact for field in layer.fields)


@pytest.mark.parametrize("case", BOUNDED)
def test_bounded_boxes_contain_the_gradient_support(case):
    """A box that is not exact is marked so and contains the support of the gradient."""
    expected = supports(positive(BOUNDED[case]), SIZE)
    layer = measured_layer(BOUNDED[case], SIZE)
    assert not any(field.exact for field in layer.fields)
    for position, support in expected.items():
        for bound, pixels in zip(box(layer, position), support, strict=True):
            assert bound.start <= pixels.start <= pixels.stop <= bound.stop


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm([4, 6, 6])])
def test_norms_over_the_map_see_the_whole_image(norm):
    """Statistics over the map make every unit depend on every pixel."""
    fields = measured_layer(after(norm), SIZE).fields
    assert [(field.sees_whole_axis, field.exact) for field in fields] == [(True, True)] * 2


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 3, 5, stride=2, padding=2),
        TrueConv1d(2, 3, 4, padding=1),
        LocallyConnected1d(2, 3, 3, input_size=16, padding=1),
        nn.AvgPool1d(4, 3),
    ],
)
def test_signals_have_one_axis(layer):
    """1-D layers have exact boxes along their single axis."""
    expected = supports(positive(layer), (2, 16))
    measured = measured_layer(layer, (2, 16))
    assert {position: box(measured, position) for position in expected} == expected


def test_reflection_padding_stays_inside_the_image():
    """Reflected rows repeat pixels of the image; BlurPool's stride skips only such rows."""
    network = BlurPool2d(2)
    expected = supports(positive(network), (2, 12, 12))
    layer = measured_layer(network, (2, 12, 12))
    assert {position: box(layer, position) for position in expected} == expected
    assert (layer.unused, layer.lost) == (1, 0)


def test_write_through_a_view_is_unknown():
    """A partly overwritten tensor is reported as unknown."""

    def overwrite(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :, 1:] = x[:, :, :-1]
        return y + 1

    geometry = measure(Step(overwrite), (1, 4, 4))
    assert geometry.unknown == {"writing through a view": 1}
    assert geometry.layers[0].output is None


def test_macs_include_operations_on_constants():
    """A convolution of a constant counts its MACs although its output does not depend on the image."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), Step(lambda x: x + F.conv2d(x.new_ones(1, 1, 4, 4), x.new_ones(2, 1, 1, 1)))
    )
    assert measure(network.to("meta"), (1, 4, 4)).macs == 2 * 9 * 16 + 2 * 16


def test_in_place_operations_are_known():
    """The target of repeated in-place operations stays known, and they create no memory."""

    def overwrite(x: Tensor) -> Tensor:
        y = (x + 1).relu_()
        first_half, _ = y.relu_().chunk(2, dim=3)
        return first_half.sigmoid_().relu_() + 1

    geometry = measure(Step(overwrite), (1, 4, 4))
    assert (geometry.layers[0].output, geometry.unknown) == ((1, 1, 4, 2), {})
    assert geometry.memory_bytes == 4 * (16 + 8)
