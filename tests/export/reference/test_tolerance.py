"""The hard gate between PyTorch and what is shipped."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import ParityError
from export.interface.interface import ImageInterface
from export.onnx_model.rename import name_values
from export.reference.determinism import expectations
from export.reference.expected import ReferenceRuns
from export.reference.tolerance import Reference, compare, distance
from export.verify.layer_map import map_layers
from export.verify.parity import check_numbers
from protos import manifest
from zoo import LoadedNetwork

Mapped = tuple[onnx.ModelProto, manifest.LayerMap, list[ReferenceRuns]]


@pytest.fixture
def mapped(convnet4: LoadedNetwork) -> Mapped:
    """A converted network, its model with the layers' names, and their map."""
    network, interface = prepare(convnet4.network), ImageInterface(convnet4.preprocessing)
    model = interface.attach(convert(network, interface.input_size, 20))
    expected = expectations(network, interface)
    layer_map = map_layers(model, network, expected)
    name_values(model, layer_map)
    return model, layer_map, expected


class TestGate:
    """A model that departs from its network does not pass."""

    def test_every_layer_and_output(self, mapped: Mapped) -> None:
        """Both outputs are compared at each batch; each layer of the file has its error beside what is allowed."""
        checks = check_numbers(*mapped)
        assert [(each.batch, each.output) for each in checks] == [
            (batch, output) for batch in (1, 2, 3, 5) for output in ("logits", "probabilities")
        ]
        for layer in mapped[1].layers:
            assert (layer.tolerance > 0) == bool(layer.value)
            assert layer.max_abs_error <= layer.tolerance

    def test_the_first_layer_that_departs(self, mapped: Mapped) -> None:
        """A layer that goes wrong in the middle is found at its layer, not at the end."""
        nudge(mapped[0], "conv3.weight", 0.1)  # what is folded into bn3
        with pytest.raises(ParityError, match=r"layer 'bn3' .BatchNorm2d. is the first to depart .* batch 1 of 8x8: "):
            check_numbers(*mapped)

    def test_wrong_from_the_start(self, mapped: Mapped, convnet4: LoadedNetwork) -> None:
        """Where the file never held a layer's output, the outputs depart, and the first such layer is named."""
        model, _, expected = mapped
        nudge(model, "conv2.weight", 0.1)
        layer_map = map_layers(model, prepare(convnet4.network), expected)
        with pytest.raises(ParityError, match=r"'logits' departs .* the first layer that departs is 'conv2' .Conv2d."):
            check_numbers(model, layer_map, expected)

    def test_the_last_weight(self, mapped: Mapped) -> None:
        """Weights of the classifier, moved by a hundredth, are noticed."""
        nudge(mapped[0], "head.fc.weight", 1e-2)
        with pytest.raises(ParityError, match=r"layer .head.fc. .Linear. is the first to depart .* nothing was"):
            check_numbers(*mapped)

    def test_other_normalisation(self, mapped: Mapped) -> None:
        """A model that normalises with another mean is refused."""
        nudge(mapped[0], "image_mean", 1.0)
        with pytest.raises(ParityError):
            check_numbers(*mapped)


class TestMeasure:
    """How far two arrays lie apart."""

    def test_scale_sets_the_floor(self) -> None:
        """Where float32 happens to be exact, the tolerance is a few of its last places, relative to the values."""
        big = np.array([1e8, 1.0], np.float32)
        found = compare(big + np.array([256, 0], np.float32), big, big.astype(np.float64))
        assert (found.reference_error, found.tolerance, found.holds) == (0.0, 400.0, True)

    def test_hopeless_noise_is_no_excuse(self) -> None:
        """However far PyTorch's float32 lies from its float64, a hundredth of the largest value is the most allowed."""
        expected, exact = np.array([100.0, 1.0]), np.array([150.0, 1.0])
        found = compare(expected + 2, expected, exact)
        assert (found.reference_error, found.tolerance, found.holds) == (50.0, 1.0, False)

    def test_hopeless_rows_are_told_from_others(self) -> None:
        """Of three inputs with two rows each, those for which float32 is far off; another float32 counts as well."""
        exact = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 100.0])
        expected = np.array([1.0, 2.0, 9.0, 4.0, 5.0, 100.0], np.float32)
        other = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 90.0], np.float32)
        assert Reference(expected, exact).unreliable_rows(3) == {1}
        assert Reference(expected, exact, other=other).unreliable_rows(3) == {1, 2}
        assert Reference(exact.astype(np.float32), exact).unreliable_rows(3) == set()
        assert Reference(expected, exact).unreliable_rows(4) == set()

    def test_one_infinite_value_does_not_excuse_the_others(self) -> None:
        """Where a result overflows, the rest is still compared."""
        expected, exact = np.array([np.inf, 1.0, 2.0]), np.array([1e40, 1.0, 2.0])
        assert compare(expected, expected, exact).holds
        assert not compare(np.array([np.inf, 5.0, 2.0]), expected, exact).holds
        assert not compare(np.array([1.0, 1.0, 2.0]), expected, exact).holds

    @pytest.mark.parametrize("huge", [1e6, -1e9, float(np.finfo(np.float32).min)])
    def test_huge_numbers_are_no_excuse_for_the_others(self, huge: float) -> None:
        """A mask, or one loud class, is compared by itself: beside it, numbers of ordinary size must still be right."""
        small = np.random.default_rng(0).standard_normal(32).astype(np.float32)
        expected = np.concatenate([small, np.full(32, huge, np.float32)])
        exact = expected.astype(np.float64)
        found = compare(expected * np.float32(1 - 1e-6), expected, exact)
        assert (found.holds, found.tolerance) == (True, float(f"{4e-6 * abs(float(np.float32(huge))):.2e}"))
        for wrong in (0, 40):
            moved = expected.copy()
            moved[wrong] *= 0.99
            assert not compare(moved, expected, exact).holds

    def test_nan_is_no_agreement(self) -> None:
        """A NaN on one side only is an infinite distance; on both it is the same value."""
        one, nan = np.array([1.0]), np.array([np.nan])
        assert (distance(one, nan), distance(nan, one), distance(nan, nan)) == (np.inf, np.inf, 0.0)

    def test_infinities_of_one_sign_agree(self) -> None:
        """Overflow to the same infinity is agreement; to the other it is not."""
        up = np.array([np.inf])
        assert (distance(up, up), distance(up, -up)) == (0.0, np.inf)

    def test_shapes_must_agree(self) -> None:
        """Arrays of different shapes are never compared by broadcasting."""
        assert distance(np.zeros((2, 1)), np.zeros((2, 2))) == np.inf


def nudge(model: onnx.ModelProto, name: str, by: float) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array += by
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return
    raise KeyError(name)
