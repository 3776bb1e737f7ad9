"""Shift equivariance, saliency, gradient ascent, patches and filters."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zoo import load_dataset, load_network
from zoo.errors import SettingsError
from zoo.geometry.measure import measure
from zoo.insight.ascent import AscentSettings, ascend, penalty
from zoo.insight.filters import GAP_PX, TILE_PX, filter_image
from zoo.insight.patches import strongest_patches
from zoo.insight.responses import response, unit
from zoo.insight.saliency import saliency
from zoo.insight.shifts import shift_error
from zoo.layers import BlurPool2d


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """convnet4 with random weights."""
    return load_network("convnet4", seed=1).network


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    """Noise images large enough for many units to be far from the border."""
    return torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))


class TestShifts:
    """Convolutions are shift equivariant; a pool of stride 2 is so for even shifts only."""

    def test_convolutions_are_equivariant(self, network: nn.Module, noise: torch.Tensor) -> None:
        """Any shift of the image shifts a response of stride 1 by as much."""
        assert [shift_error(network, "act2", noise, shift) < 1e-5 for shift in (1, 2, 3)] == [True, True, True]

    def test_pool_is_not_equivariant_to_odd_shifts(self, network: nn.Module, noise: torch.Tensor) -> None:
        """After a 2x2 max pool, a shift by 1 changes the response strongly, and a shift by 2 only shifts it."""
        assert shift_error(network, "pool", noise, 1) > 0.3
        assert shift_error(network, "pool", noise, 2) < 1e-5

    def test_blur_reduces_the_error(self, noise: torch.Tensor) -> None:
        """A blur before the stride reduces the error of an odd shift."""
        bare = nn.Sequential(nn.MaxPool2d(2, stride=2)).eval()
        blurred = nn.Sequential(nn.MaxPool2d(2, stride=1), BlurPool2d(1, stride=2)).eval()
        assert shift_error(blurred, "1", noise, 1) < 0.8 * shift_error(bare, "0", noise, 1)

    def test_layers_that_cannot_be_compared(self, network: nn.Module, noise: torch.Tensor) -> None:
        """A layer that sees the whole image, and images that are too small, raise an error."""
        with pytest.raises(SettingsError, match="sees the whole image"):
            shift_error(network, "head.fc", noise, 1)
        with pytest.raises(SettingsError, match="use larger images"):
            shift_error(network, "act4", noise[..., :8, :8], 1)


class TestSaliency:
    """The gradient of a unit with respect to the image."""

    def test_support_is_the_receptive_field(self, network: nn.Module) -> None:
        """The gradient is non-zero exactly in the box that geometry computes."""
        x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
        gradient = saliency(network, "bn4", x, channel=3, place=(7, 8))[0, 0]
        fields = measure(copy.deepcopy(network).to("meta"), (1, 32, 32))["bn4"].fields
        assert fields is not None
        rows, columns = fields[0].box(7), fields[1].box(8)
        support = [gradient.abs().sum(dim=axis).nonzero().flatten().tolist() for axis in (1, 0)]
        assert support == [list(rows), list(columns)]

    def test_is_the_derivative(self, network: nn.Module) -> None:
        """A small step along the gradient raises the unit by the step times the gradient's square."""
        double = copy.deepcopy(network).double()
        x = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        gradient = saliency(double, "bn2", x, channel=5)
        step = 1e-6
        with torch.no_grad():
            before, after = (unit(response(double, "bn2", image), 5) for image in (x, x + step * gradient))
        assert float((after - before) / step) == pytest.approx(float(gradient.square().sum()), rel=1e-3)

    @pytest.mark.parametrize(("channel", "place"), [(32, ()), (0, (8, 0)), (0, (0,)), (-1, ())])
    def test_no_such_unit(self, network: nn.Module, channel: int, place: tuple[int, ...]) -> None:
        """An unknown unit raises an error that states the output's shape."""
        with pytest.raises(SettingsError, match=r"there is no unit .* in an output of shape \(32, 8, 8\)"):
            saliency(network, "act1", torch.zeros(1, 1, 8, 8), channel, place)

    def test_no_such_layer(self, network: nn.Module) -> None:
        """An unknown layer raises an error that suggests a similar one."""
        with pytest.raises(SettingsError, match="no layer 'acct1'; did you mean 'act1'"):
            saliency(network, "acct1", torch.zeros(1, 1, 8, 8), 0)


class TestAscent:
    """Images that maximise a unit's response."""

    def test_raises_the_logit(self, short_run: Path) -> None:
        """In a trained network, the image made for class 3 has a higher logit than 90 % of the real images."""
        trained, digits = load_network(short_run).network, load_dataset("digits")
        image = ascend(trained, "head.fc", 3, (1, 8, 8))
        with torch.no_grad():
            logit = trained(image[None])[0, 3]
            real_logits = trained(digits.preprocessing.normalise(digits.test.images))[:, 3]
        assert float(logit) > float(real_logits.quantile(0.9))

    def test_penalties_smooth_the_image(self, network: nn.Module) -> None:
        """Without the penalties the image has larger and rougher values."""
        penalised = ascend(network, "head.fc", 3, (1, 8, 8))
        unpenalised = ascend(network, "head.fc", 3, (1, 8, 8), AscentSettings(l2=0, variation=0))
        assert float(penalty(unpenalised, AscentSettings())) > 3 * float(penalty(penalised, AscentSettings()))

    def test_zero_image_can_have_no_gradient(self) -> None:
        """A ReLU network without biases has no gradient at zeros, so the ascent starts from a little noise."""
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU()).eval()
        assert float(saliency(plain, "1", torch.zeros(1, 1, 8, 8), 0).abs().sum()) == 0
        assert float(ascend(plain, "1", 0, (1, 8, 8), AscentSettings(noise=0)).abs().sum()) == 0
        with torch.no_grad():
            options = AscentSettings(l2=0, variation=0)
            images = [ascend(plain, "1", channel, (1, 8, 8), options) for channel in range(4)]
            assert max(float(unit(response(plain, "1", image[None]), k)) for k, image in enumerate(images)) > 0

    def test_is_deterministic_and_keeps_the_global_generator(self, network: nn.Module) -> None:
        """The same seed gives the same image, and PyTorch's global generator is not used."""
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        first, second = (ascend(network, "act4", 1, (1, 8, 8), AscentSettings(steps=3)) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(torch.rand(3), expected)
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_settings_out_of_range(self) -> None:
        """A negative penalty raises an error."""
        with pytest.raises(SettingsError, match="at least 0"):
            AscentSettings(l2=-1)


class TestPatches:
    """The parts of images to which a channel responds most."""

    def test_a_planted_pattern_is_found(self) -> None:
        """The image that contains the filter's own pattern comes first, with the pattern's position."""
        detector = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False)).eval()
        pattern = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
        detector[0].weight.data[0, 0] = pattern
        x = torch.zeros(4, 1, 12, 12)
        x[2, 0, 5:8, 7:10] = pattern
        patches = strongest_patches(detector, "0", 0, x, count=2)
        best = patches[0]
        assert (best.index, best.rows, best.columns, best.response) == (2, range(5, 8), range(7, 10), 9.0)
        assert len(patches) == 2

    def test_vectors_have_no_patches(self, network: nn.Module) -> None:
        """A layer whose output is a vector raises an error."""
        with pytest.raises(SettingsError, match="is not a feature map"):
            strongest_patches(network, "head.fc", 0, torch.zeros(1, 1, 8, 8))


class TestFilters:
    """The first layer's filters as an image."""

    def test_each_filter_has_a_tile(self, network: nn.Module) -> None:
        """Filter 7 of 32 is in the second row of six; its tile has the weights, with the largest white or black."""
        image = np.asarray(filter_image(network))
        assert image.shape == (6 * (TILE_PX + GAP_PX) + GAP_PX, 6 * (TILE_PX + GAP_PX) + GAP_PX, 3)
        weight = network.get_submodule("conv1").weight.detach()
        step = TILE_PX + GAP_PX
        tile = image[GAP_PX + step : step * 2, GAP_PX + step : step * 2, 0][::14, ::14]
        expected = (127.5 + 127.5 * weight[7, 0] / weight.abs().max()).round()
        np.testing.assert_array_equal(tile, expected)

    def test_network_without_convolutions(self) -> None:
        """A network without 2-D convolutions raises an error."""
        with pytest.raises(SettingsError, match="no 2-D convolution"):
            filter_image(nn.Linear(2, 2))


def test_gradient_of_a_shared_weight_is_the_sum_over_positions() -> None:
    """The gradient of a convolution's weight is the sum of the gradients at each position."""
    x, conv = torch.randn(1, 1, 6, 6), nn.Conv2d(1, 1, 3, bias=False)
    out = conv(x)
    weights = conv.weight
    (total,) = torch.autograd.grad(out.sum(), weights, retain_graph=True)
    gradients = [
        torch.autograd.grad(out[0, 0, i, j], weights, retain_graph=True)[0] for i in range(4) for j in range(4)
    ]
    torch.testing.assert_close(total, torch.stack(gradients).sum(0))
