"""The comparison of a model with PyTorch, which rejects every model that differs."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import ParityError
from export.interface.interface import ImageInterface
from export.onnx_model.rename import name_values
from export.reference.determinism import reference_runs
from export.reference.expected import ReferenceRuns
from export.reference.tolerance import Reference, compare, distance
from export.verify.layer_map import map_layers
from export.verify.model_runner import ModelRunner
from export.verify.parity import Check, check_parity
from protos import manifest
from zoo import LoadedNetwork

Mapped = tuple[onnx.ModelProto, manifest.LayerMap, list[ReferenceRuns]]


@pytest.fixture
def mapped(convnet4: LoadedNetwork) -> Mapped:
    """Return a converted model with named values, its layer map, and PyTorch's results."""
    network, interface = prepare(convnet4.network), ImageInterface(convnet4.preprocessing)
    model = interface.attach(convert(network, interface, 20))
    runs = reference_runs(network, interface)
    layer_map = map_layers(model, network, runs)
    name_values(model, layer_map)
    return model, layer_map, runs


class TestGate:
    """A model that differs from its network is rejected."""

    def test_every_layer_and_output(self, mapped: Mapped) -> None:
        """Both outputs are compared at each batch size; each layer in the file gets its error and tolerance."""
        checks = check(*mapped)
        assert [(result.batch, result.output) for result in checks] == [
            (batch, output) for batch in (1, 2, 3, 5) for output in ("logits", "probabilities")
        ]
        for layer in mapped[1].layers:
            assert (layer.tolerance > 0) == bool(layer.value)
            assert layer.max_abs_error <= layer.tolerance

    def test_the_first_layer_that_differs(self, mapped: Mapped) -> None:
        """A wrong weight in the middle of the network is reported for the layer that it affects first."""
        nudge(mapped[0], "conv3.weight", 0.1)  # folded into bn3
        with pytest.raises(ParityError, match=r"layer 'bn3' .BatchNorm2d. is the first to differ .* batch 1 of 8x8: "):
            check(*mapped)

    def test_wrong_from_the_start(self, mapped: Mapped, convnet4: LoadedNetwork) -> None:
        """If a layer's output was never in the file, the error names the wrong output and the first such layer."""
        model, _, runs = mapped
        nudge(model, "conv2.weight", 0.1)
        layer_map = map_layers(model, prepare(convnet4.network), runs)
        with pytest.raises(ParityError, match=r"'logits' differs .* the first layer that differs is 'conv2' .Conv2d."):
            check(model, layer_map, runs)

    def test_the_last_weight(self, mapped: Mapped) -> None:
        """An error of 0.01 in the classifier's weights is detected."""
        nudge(mapped[0], "head.fc.weight", 1e-2)
        with pytest.raises(ParityError, match=r"layer .head.fc. .Linear. is the first to differ .* nothing was"):
            check(*mapped)

    def test_other_normalisation(self, mapped: Mapped) -> None:
        """A model that normalises with another mean is rejected."""
        nudge(mapped[0], "image_mean", 1.0)
        with pytest.raises(ParityError):
            check(*mapped)


class TestMeasure:
    """The distance of arrays, and the tolerance."""

    def test_scale_sets_the_floor(self) -> None:
        """If float32 happens to be exact, the tolerance is a few units in its last place, relative to the values."""
        big = np.array([1e8, 1.0], np.float32)
        agreement = compare(big + np.array([256, 0], np.float32), big, big.astype(np.float64))
        assert (agreement.reference_error, agreement.tolerance, agreement.holds) == (0.0, 400.0, True)

    def test_an_error_that_is_small_by_chance(self) -> None:
        """The float32 error of comparable values raises the tolerance of a value that is exact by chance."""
        reference = Reference(np.array([1.0], np.float32), np.array([1.0]))
        assert not reference.agreement(np.array([1 + 5e-6])).holds
        assert reference.agreement(np.array([1 + 5e-6]), least_error=1e-6).tolerance == 1e-5

    def test_ceiling(self) -> None:
        """The tolerance is at most a hundredth of the largest value, however large PyTorch's float32 error is."""
        float32, float64 = np.array([100.0, 1.0]), np.array([150.0, 1.0])
        agreement = compare(float32 + 2, float32, float64)
        assert (agreement.reference_error, agreement.tolerance, agreement.holds) == (50.0, 1.0, False)

    def test_unreliable_rows(self) -> None:
        """Of three inputs with two rows each, those with a large float32 error, also in lanes, are unreliable."""
        float64 = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 100.0])
        float32 = np.array([1.0, 2.0, 9.0, 4.0, 5.0, 100.0], np.float32)
        lanes = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 90.0], np.float32)
        assert Reference(float32, float64).unreliable_rows(3) == {1}
        assert Reference(float32, float64, lanes=lanes).unreliable_rows(3) == {1, 2}
        assert Reference(float64.astype(np.float32), float64).unreliable_rows(3) == set()
        assert Reference(float32, float64).unreliable_rows(4) == set()

    def test_infinite_values(self) -> None:
        """If one value overflows, the others are still compared."""
        float32, float64 = np.array([np.inf, 1.0, 2.0]), np.array([1e40, 1.0, 2.0])
        assert compare(float32, float32, float64).holds
        assert not compare(np.array([np.inf, 5.0, 2.0]), float32, float64).holds
        assert not compare(np.array([1.0, 1.0, 2.0]), float32, float64).holds

    @pytest.mark.parametrize("huge", [1e6, -1e9, float(np.finfo(np.float32).min)])
    def test_groups_of_magnitudes(self, huge: float) -> None:
        """Huge values are compared separately, so that they do not increase the tolerance of the others."""
        small = np.random.default_rng(0).standard_normal(32).astype(np.float32)
        float32 = np.concatenate([small, np.full(32, huge, np.float32)])
        float64 = float32.astype(np.float64)
        agreement = compare(float32 * np.float32(1 - 1e-6), float32, float64)
        assert (agreement.holds, agreement.tolerance) == (True, float(f"{4e-6 * abs(float(np.float32(huge))):.2e}"))
        for index in (0, 40):
            changed = float32.copy()
            changed[index] *= 0.99
            assert not compare(changed, float32, float64).holds

    def test_nan(self) -> None:
        """The distance is infinite if only one value is NaN, and 0 if both are."""
        one, nan = np.array([1.0]), np.array([np.nan])
        assert (distance(one, nan), distance(nan, one), distance(nan, nan)) == (np.inf, np.inf, 0.0)

    def test_infinities(self) -> None:
        """Infinities of the same sign are equal, those of opposite signs are not."""
        infinity = np.array([np.inf])
        assert (distance(infinity, infinity), distance(infinity, -infinity)) == (0.0, np.inf)

    def test_shapes_must_agree(self) -> None:
        """Arrays of different shapes are never compared by broadcasting."""
        assert distance(np.zeros((2, 1)), np.zeros((2, 2))) == np.inf


def check(model: onnx.ModelProto, layer_map: manifest.LayerMap, runs: list[ReferenceRuns]) -> list[Check]:
    """Compare the model with PyTorch's results."""
    return check_parity(ModelRunner(model), layer_map, runs)


def nudge(model: onnx.ModelProto, name: str, offset: float) -> None:
    """Add `offset` to a weight of the model."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array += offset
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return
    raise KeyError(name)
