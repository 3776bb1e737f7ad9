"""The hard gate between PyTorch and what is shipped."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.convert import convert
from export.errors import ParityError
from export.interface import Pictures
from export.parity import check_outputs, compare, distance
from export.prepare import prepare
from zoo import LoadedNet


class TestGate:
    """A model that departs from its net does not pass."""

    def test_one_weight_nudged(self, convnet4: LoadedNet) -> None:
        """A single weight moved by a hundredth is noticed, by output, batch and size."""
        net = prepare(convnet4.net)
        model = Pictures(convnet4.preprocessing).attach(convert(net, convnet4.preprocessing.input_size, 20))
        assert len(check_outputs(model, net, Pictures(convnet4.preprocessing))) == 8
        nudge(model, "head.fc.weight", 1e-2)
        with pytest.raises(ParityError, match=r"'logits' departs from PyTorch at batch \d: .* nothing was written"):
            check_outputs(model, net, Pictures(convnet4.preprocessing))

    def test_other_normalisation(self, convnet4: LoadedNet) -> None:
        """A model that normalises with another mean is refused."""
        net = prepare(convnet4.net)
        model = Pictures(convnet4.preprocessing).attach(convert(net, convnet4.preprocessing.input_size, 20))
        nudge(model, "image_mean", 1.0)
        with pytest.raises(ParityError):
            check_outputs(model, net, Pictures(convnet4.preprocessing))


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

    def test_one_infinite_value_does_not_excuse_the_others(self) -> None:
        """Where a result overflows, the rest is still compared."""
        expected, exact = np.array([np.inf, 1.0, 2.0]), np.array([1e40, 1.0, 2.0])
        assert compare(expected, expected, exact).holds
        assert not compare(np.array([np.inf, 5.0, 2.0]), expected, exact).holds
        assert not compare(np.array([1.0, 1.0, 2.0]), expected, exact).holds

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
            array.flat[0] += by
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return
    raise KeyError(name)
