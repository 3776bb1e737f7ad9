"""The parts of the way to a variant, each by itself."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import SettingsError, VariantError
from export.interface.head import Head
from export.interface.image_io import attach
from export.variants import fp16, int8, memory
from export.variants.graph import sort_nodes
from export.variants.input_constants import spread_constants
from export.variants.int8 import calibrate, quantise
from export.variants.latency import compare, summary
from export.variants.measure import sqnr_db
from export.variants.settings import Bounds, VariantSettings, parse_kinds
from export.variants.static_shape import fix, require_fixed
from zoo.networks.preprocessing import Preprocessing


def model(nodes: list[onnx.NodeProto], weights: dict[str, object] | None = None) -> onnx.ModelProto:
    """A model from `x` to `y`, float32 of (batch, 4)."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    arrays = [numpy_helper.from_array(np.asarray(each, np.float32), name) for name, each in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", infos[:1], infos[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(of: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(of.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


class TestRounding:
    """The float32 arithmetic that stands for float16."""

    def test_equals_numpys(self) -> None:
        """Normal, subnormal, tiny, huge and infinite numbers are rounded as numpy rounds them."""
        rng = np.random.default_rng(0)
        x = (rng.standard_normal((4000, 4)) * 10.0 ** rng.integers(-9, 6, (4000, 1))).astype(np.float32)
        x[0] = [65504, 65519.9, 65520, -1e9]
        x[1] = [2.0**-24, 2.0**-25, 6e-8, -(2.0**-14)]
        x[2] = [0, 2049, 2051, np.inf]
        rounded = fp16.rounding_model(model([helper.make_node("Identity", ["x"], ["y"], "i")]), [])
        with np.errstate(over="ignore"):
            expected = x.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(run(rounded, x), expected)

    def test_overflow_spreads(self) -> None:
        """What overflows in float16 stays infinite, although this CPU would carry on in float32."""
        nodes = [helper.make_node("Add", ["x", "x"], ["a"], "a"), helper.make_node("Mul", ["a", "q"], ["y"], "y")]
        small = model(nodes, {"q": [0.25]})
        x = np.full((1, 4), 40000, np.float32)
        assert np.isinf(run(fp16.rounding_model(small, []), x)).all()
        np.testing.assert_array_equal(run(fp16.rounding_model(small, ["a", "y"]), x), x / 2)


class TestHalf:
    """Float16 with islands."""

    def test_integers_stay(self) -> None:
        """An output of integers keeps its type beside one of float32."""
        nodes = [helper.make_node("Add", ["x", "x"], ["y"], "y"), helper.make_node("ArgMax", ["y"], ["c"], "c", axis=1)]
        both = model(nodes)
        both.graph.output.append(helper.make_tensor_value_info("c", TensorProto.INT64, ["batch", 1]))
        half = fp16.to_half(both, [])
        assert [each.type.tensor_type.elem_type for each in half.graph.output] == [TensorProto.FLOAT, TensorProto.INT64]
        session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
        (classes,) = session.run(["c"], {"x": np.array([[0, 3, 1, 2]], np.float32)})
        assert (classes.dtype, classes.tolist()) == (np.int64, [[1]])

    def halved(self, of: onnx.ModelProto, x: np.ndarray) -> fp16.Fp16Result:
        values = [name for node in of.graph.node for name in node.output]

        def opened(each: onnx.ModelProto) -> dict[str, np.ndarray]:
            each = onnx.ModelProto.FromString(each.SerializeToString())
            known = {output.name for output in each.graph.output}
            each.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
            session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
            return dict(zip(values, session.run(values, {"x": x}), strict=True))

        exact = opened(of)
        largest = {name: float(np.abs(value).max()) for name, value in exact.items()}
        return fp16.halve(
            of, largest, lambda each: {name: sqnr_db(exact[name], got) for name, got in opened(each).items()}, []
        )

    def test_overflow_makes_an_island(self) -> None:
        """Nodes at a value that float16 cannot hold stay float32; the others do not."""
        nodes = [
            helper.make_node("Relu", ["x"], ["r"], "r"),
            helper.make_node("Mul", ["r", "up"], ["big"], "big"),
            helper.make_node("Mul", ["big", "down"], ["back"], "back"),
            helper.make_node("Neg", ["back"], ["y"], "y"),
        ]
        x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
        whole = model(nodes, {"up": [1e6], "down": [1e-6]})
        found = self.halved(whole, x)
        assert list(found.islands) == ["big", "back"]
        assert all(why.startswith("reaches") for why in found.islands.values())
        assert sqnr_db(run(whole, x), run(found.model, x)) > 55
        types = {weight.name: weight.data_type for weight in found.model.graph.initializer}
        assert types == {"up": TensorProto.FLOAT, "down": TensorProto.FLOAT}

    def test_cancellation_makes_an_island(self) -> None:
        """A difference of large near-equal numbers, which float16 loses, is found by measuring."""
        nodes = [helper.make_node("Add", ["x", "c"], ["a"], "a"), helper.make_node("Sub", ["a", "c"], ["y"], "y")]
        x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
        whole = model(nodes, {"c": [3000.0]})
        found = self.halved(whole, x)
        assert list(found.islands) == ["a", "y"]
        assert found.islands["a"].startswith("'y' is at ")

    def test_refuses_what_it_cannot_convert(self) -> None:
        """A weight beyond float16 is named."""
        large = model([helper.make_node("Mul", ["x", "w"], ["y"], "m")], {"w": [1e6]})
        with pytest.raises(VariantError, match=r"the weight 'w' reaches 1e\+06"):
            fp16.to_half(large, [])
        with pytest.raises(VariantError, match=r"the weight 'w' that gives 'y' \(Mul\) reaches 1e\+06, over 65504"):
            fp16.halve(large, {"y": 1.0}, lambda _: {}, [])


def test_nothing_to_quantise() -> None:
    """int8 of a model without weights is refused."""
    with pytest.raises(VariantError, match="no convolution"):
        quantise(model([helper.make_node("Relu", ["x"], ["y"], "r")]), {})


def test_a_quantiser_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime raises is a reason to refuse the variant, not the end of the others."""
    whole = model([helper.make_node("MatMul", ["x", "w"], ["y"], "y")], {"w": np.eye(4, dtype=np.float32)})
    monkeypatch.setattr(int8.QDQQuantizer, "quantize_model", lambda _self: np.zeros(2) + np.zeros(3))
    with pytest.raises(VariantError, match="int8: onnxruntime's quantiser fails: ValueError: operands could not"):
        quantise(whole, {})


def test_transposed_convolutions_in_groups_stay_as_they_are() -> None:
    """onnxruntime's quantiser cannot take them; what stands beside them is quantised."""
    rng = np.random.default_rng(0)
    shapes = {"x_in": (4, 4), "up_w": (4, 2, 2, 2), "up_b": (4,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "x_in"], ["a"], "a"),
        helper.make_node("Unsqueeze", ["a", "axes"], ["b"], "b"),
        helper.make_node("ConvTranspose", ["b", "up_w", "up_b"], ["c"], "c", group=2),
        helper.make_node("ReduceMean", ["c", "axes"], ["y"], "y", keepdims=0),
    ]
    whole = model(nodes, weights)
    whole.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    x = rng.standard_normal((2, 4)).astype(np.float32)
    quantised = quantise(whole, calibrate(whole, [{"x": x}], "minmax"))
    assert 0 < np.abs(run(quantised, x) - run(whole, x)).max() < 0.05 * np.abs(run(whole, x)).max()


def test_stacks_of_matrices_stay_as_they_are() -> None:
    """onnxruntime cannot run their int8 product by channel; a plain matrix beside them is quantised."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) for name, shape in (("stack", (3, 4, 4)), ("plain", (4, 4)))}
    nodes = [
        helper.make_node("MatMul", ["x", "stack"], ["a"], "a"),
        helper.make_node("ReduceSum", ["a", "first"], ["b"], "b", keepdims=0),
        helper.make_node("MatMul", ["b", "plain"], ["y"], "y"),
    ]
    whole = model(nodes, weights)
    whole.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    x = rng.standard_normal((2, 4)).astype(np.float32)
    quantised = quantise(whole, calibrate(whole, [{"x": x}], "minmax"))
    difference = np.abs(run(quantised, x) - run(whole, x)).max()
    assert 0 < difference < 0.05 * np.abs(run(whole, x)).max()
    assert "stack" in {each.input[1] for each in quantised.graph.node if each.op_type == "MatMul"}


class TestEntry:
    """The normalisation's constants in an int8 model."""

    def images(self, width: int | str) -> onnx.ModelProto:
        """A model that only normalises images, (batch, 8, width, 3)."""
        rule = Preprocessing(input_size=(3, 8, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, width]) for name in ("x", "y")]
        nodes = [helper.make_node("Relu", ["x"], ["logits"], "r"), helper.make_node("Relu", ["logits"], ["y"], "s")]
        graph = helper.make_graph(nodes, "test", infos[:1], infos[1:])
        whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return attach(whole, rule, Head())

    def test_a_row_at_a_time(self) -> None:
        """Spread along the width, the constants give the same numbers, bit by bit."""
        plain, spread = self.images(6), self.images(6)
        spread_constants(spread)
        assert [list(weight.dims) for weight in spread.graph.initializer] == [[1, 3, 1, 6]] * 2
        x = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
        sessions = (onnxruntime.InferenceSession(each.SerializeToString()) for each in (plain, spread))
        before, after = (session.run(["y"], {"image": x})[0] for session in sessions)
        np.testing.assert_array_equal(before, after)

    def test_a_free_width(self) -> None:
        """Where the width is free, the constants stay."""
        free = self.images("width")
        spread_constants(free)
        assert [list(weight.dims) for weight in free.graph.initializer] == [[1, 3, 1, 1]] * 2


def test_free_shape_is_refused() -> None:
    """A value whose size the data decide cannot be fixed."""
    nodes = [helper.make_node("NonZero", ["x"], ["where"], "n"), helper.make_node("Cast", ["where"], ["y"], "c", to=1)]
    with pytest.raises(VariantError, match="'x' and of 2 more values stays free"):
        require_fixed(model(nodes))


def test_fix_keeps_the_original() -> None:
    """The model given stays as it was."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "r")], "test", info[:1], info[1:])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    before = whole.SerializeToString(deterministic=True)
    twin = fix(whole, Preprocessing(input_size=(1, 8, 8), mean=(0.5,), std=(0.5,)))
    assert whole.SerializeToString(deterministic=True) == before
    assert [dim.dim_value for dim in twin.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 8, 8]


def test_sqnr() -> None:
    """By hand: a tenth of the signal as noise is 20 dB; equal and not finite have their ends of the scale."""
    signal = np.array([3.0, 4.0])
    assert sqnr_db(signal, signal * 1.1) == 20.0
    assert (sqnr_db(signal, signal), sqnr_db(signal, signal * np.nan)) == (200.0, -200.0)


def test_sorting() -> None:
    """Nodes come behind those whose values they take, and otherwise stay in order."""
    pairs = [("c", "b"), ("d", "x"), ("b", "a"), ("a", "x")]
    nodes = [helper.make_node("Relu", [source], [name], name) for name, source in pairs]
    graph = model(nodes).graph
    sort_nodes(graph)
    assert [node.name for node in graph.node] == ["d", "a", "b", "c"]


def test_a_model_that_fails_in_a_process_of_its_own() -> None:
    """Its memory is not known, and the variant is refused in the last words of the process."""
    content = model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
    with pytest.raises(VariantError, match=r"in a process of its own, it failed: .*(nothing|Invalid|feeds)"):
        memory.peak_mb(content, {"nothing": np.zeros(1, np.float32)})


class TestLatency:
    """Paired turns."""

    def test_summary(self) -> None:
        """The speedup is the median of the ratios, not the ratio of the medians."""
        found = summary("cpu", [(4.0, 1.0), (2.0, 2.0), (9.0, 3.0)] * 10)
        assert (found.speedup, found.fp32_ms.median, found.variant_ms.median) == (3.0, 4.0, 2.0)
        assert found.speedup_low <= 3.0 <= found.speedup_high

    def test_stops_when_it_is_clear(self) -> None:
        """A difference beyond doubt needs one series of rounds."""
        found = compare("cpu", lambda: sum(range(20000)), lambda: sum(range(200)), bound=1.0)
        assert found.speedup_low > 5
        assert found.rounds == 30


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bounds(max_accuracy_drop_points=-1), "from 0 to 100"),
        (lambda: Bounds(min_speedup=float("nan")), "1 means not slower"),
        (lambda: Bounds(min_sqnr_db=500), "from -200 to 200"),
        (lambda: VariantSettings(()), "named once each"),
        (lambda: VariantSettings(("int8", "int8")), "named once each"),
        (lambda: VariantSettings(("int8",), calibration_pictures=0), "at least 1"),
        (lambda: parse_kinds("int8,"), "no variant ''"),
    ],
)
def test_settings(make: object, words: str) -> None:
    """What is out of range is refused."""
    with pytest.raises(SettingsError, match=words):
        make()
