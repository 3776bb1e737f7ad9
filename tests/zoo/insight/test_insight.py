"""What a network looks at: shifts, saliency, ascent, patches and filters."""

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
    """Convnet4 with random weights."""
    return load_network("convnet4", seed=1).network


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    """Large images, so that many units lie far from the border."""
    return torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))


class TestShifts:
    """A convolution moves its response with the image; a pool of 2 does so for even shifts only."""

    def test_convolutions_move(self, network: nn.Module, noise: torch.Tensor) -> None:
        """Any shift of the image is the same shift of a response of stride 1."""
        assert [shift_error(network, "act2", noise, shift) < 1e-5 for shift in (1, 2, 3)] == [True, True, True]

    def test_a_pool_breaks_odd_shifts(self, network: nn.Module, noise: torch.Tensor) -> None:
        """After a 2x2 max pool a shift by 1 changes the response a lot, a shift by 2 moves it."""
        assert shift_error(network, "pool", noise, 1) > 0.3
        assert shift_error(network, "pool", noise, 2) < 1e-5

    def test_blur_helps(self, noise: torch.Tensor) -> None:
        """A blur before the stride makes an odd shift less harmful than leaving rows out."""
        bare = nn.Sequential(nn.MaxPool2d(2, stride=2)).eval()
        blurred = nn.Sequential(nn.MaxPool2d(2, stride=1), BlurPool2d(1, stride=2)).eval()
        assert shift_error(blurred, "1", noise, 1) < 0.8 * shift_error(bare, "0", noise, 1)

    def test_nothing_to_shift(self, network: nn.Module, noise: torch.Tensor) -> None:
        """A layer that sees everything, and images that are too small, are refused."""
        with pytest.raises(SettingsError, match="sees the whole image"):
            shift_error(network, "head.fc", noise, 1)
        with pytest.raises(SettingsError, match="take larger images"):
            shift_error(network, "act4", noise[..., :8, :8], 1)


class TestSaliency:
    """The part of the image that a unit responds to."""

    def test_lies_in_the_receptive_field(self, network: nn.Module) -> None:
        """The gradient is zero outside the box that geometry computes, and not inside it."""
        x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
        gradient = saliency(network, "bn4", x, channel=3, place=(7, 8))[0, 0]
        fields = measure(copy.deepcopy(network).to("meta"), (1, 32, 32))["bn4"].fields
        assert fields is not None
        rows, columns = fields[0].box(7), fields[1].box(8)
        found = [gradient.abs().sum(dim=axis).nonzero().flatten().tolist() for axis in (1, 0)]
        assert found == [list(rows), list(columns)]

    def test_is_the_derivative(self, network: nn.Module) -> None:
        """Moving the pixels along the gradient raises the unit by the gradient's square."""
        double = copy.deepcopy(network).double()
        x = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        gradient = saliency(double, "bn2", x, channel=5)
        step = 1e-6
        with torch.no_grad():
            before, after = (unit(response(double, "bn2", each), 5) for each in (x, x + step * gradient))
        assert float((after - before) / step) == pytest.approx(float(gradient.square().sum()), rel=1e-3)

    @pytest.mark.parametrize(("channel", "place"), [(32, ()), (0, (8, 0)), (0, (0,)), (-1, ())])
    def test_no_such_unit(self, network: nn.Module, channel: int, place: tuple[int, ...]) -> None:
        """A unit that is not there is refused with the sizes that are."""
        with pytest.raises(SettingsError, match=r"there is no unit .* in a response of \(32, 8, 8\)"):
            saliency(network, "act1", torch.zeros(1, 1, 8, 8), channel, place)

    def test_no_such_layer(self, network: nn.Module) -> None:
        """A mistyped layer is met with a close one."""
        with pytest.raises(SettingsError, match="no layer 'acct1'; did you mean 'act1'"):
            saliency(network, "acct1", torch.zeros(1, 1, 8, 8), 0)


class TestAscent:
    """An image that a unit would like best."""

    def test_raises_the_unit(self, short_run: Path) -> None:
        """In a network that knows digits, the image made for the 3 raises its logit above nearly all real images."""
        trained, digits = load_network(short_run).network, load_dataset("digits")
        made = ascend(trained, "head.fc", 3, (1, 8, 8))
        with torch.no_grad():
            found = trained(made[None])[0, 3]
            real = trained(digits.preprocessing.normalise(digits.test.images))[:, 3]
        assert float(found) > float(real.quantile(0.9))

    def test_penalties_calm_the_image(self, network: nn.Module) -> None:
        """Without the penalties the image is larger and rougher."""
        calm = ascend(network, "head.fc", 3, (1, 8, 8))
        wild = ascend(network, "head.fc", 3, (1, 8, 8), AscentSettings(l2=0, variation=0))
        assert float(penalty(wild, AscentSettings())) > 3 * float(penalty(calm, AscentSettings()))

    def test_a_start_from_zeros_can_have_no_gradient(self) -> None:
        """In a ReLU network without biases, zeros give no gradient: so the ascent starts from a little noise."""
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU()).eval()
        assert float(saliency(plain, "1", torch.zeros(1, 1, 8, 8), 0).abs().sum()) == 0
        assert float(ascend(plain, "1", 0, (1, 8, 8), AscentSettings(noise=0)).abs().sum()) == 0
        with torch.no_grad():
            alive = [ascend(plain, "1", channel, (1, 8, 8), AscentSettings(l2=0, variation=0)) for channel in range(4)]
            assert max(float(unit(response(plain, "1", each[None]), index)) for index, each in enumerate(alive)) > 0

    def test_repeats_and_leaves_the_generator_alone(self, network: nn.Module) -> None:
        """The same seed gives the same image; the caller's generator is not touched."""
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        first, second = (ascend(network, "act4", 1, (1, 8, 8), AscentSettings(steps=3)) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(torch.rand(3), expected)
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_settings_out_of_range(self) -> None:
        """A negative penalty would be a reward."""
        with pytest.raises(SettingsError, match="at least 0"):
            AscentSettings(l2=-1)


class TestPatches:
    """Where a channel responds most."""

    def test_a_planted_pattern_is_found(self) -> None:
        """The one image that holds the filter's own pattern comes first, cut out where it lies."""
        finder = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False)).eval()
        pattern = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
        finder[0].weight.data[0, 0] = pattern
        x = torch.zeros(4, 1, 12, 12)
        x[2, 0, 5:8, 7:10] = pattern
        best = strongest_patches(finder, "0", 0, x, count=2)
        assert (best[0].index, best[0].rows, best[0].columns, best[0].response) == (2, range(5, 8), range(7, 10), 9.0)
        assert len(best) == 2

    def test_vectors_have_no_places(self, network: nn.Module) -> None:
        """A layer without places is refused."""
        with pytest.raises(SettingsError, match="is no map"):
            strongest_patches(network, "head.fc", 0, torch.zeros(1, 1, 8, 8))


class TestFilters:
    """The first layer's weights."""

    def test_each_filter_has_its_tile(self, network: nn.Module) -> None:
        """Filter 7 of 32 stands in the second row of six, one pixel a weight, the largest weight white or black."""
        image = np.asarray(filter_image(network))
        assert image.shape == (6 * (TILE_PX + GAP_PX) + GAP_PX, 6 * (TILE_PX + GAP_PX) + GAP_PX, 3)
        weight = network.get_submodule("conv1").weight.detach()
        step = TILE_PX + GAP_PX
        tile = image[GAP_PX + step : step * 2, GAP_PX + step : step * 2, 0][::14, ::14]
        expected = (127.5 + 127.5 * weight[7, 0] / weight.abs().max()).round()
        np.testing.assert_array_equal(tile, expected)

    def test_a_net_without_convolutions(self) -> None:
        """A network without filters says so."""
        with pytest.raises(SettingsError, match="no 2-D convolution"):
            filter_image(nn.Linear(2, 2))


def test_a_shared_weights_gradient_is_the_sum_over_positions() -> None:
    """A convolution's weight gets the sum of what each position would give it alone."""
    x, conv = torch.randn(1, 1, 6, 6), nn.Conv2d(1, 1, 3, bias=False)
    out = conv(x)
    weights = conv.weight
    (whole,) = torch.autograd.grad(out.sum(), weights, retain_graph=True)
    parts = [torch.autograd.grad(out[0, 0, i, j], weights, retain_graph=True)[0] for i in range(4) for j in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).sum(0))
