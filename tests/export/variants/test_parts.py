"""Unit tests of the steps that build and measure variants."""

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
from export.variants.static_shape import require_static, with_static_shapes
from zoo.networks.preprocessing import Preprocessing


def model(nodes: list[onnx.NodeProto], weights: dict[str, object] | None = None) -> onnx.ModelProto:
    """Return a model from `x` to `y`, both float32 (batch, 4)."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


class TestRounding:
    """Simulation of float16 in float32 arithmetic."""

    def test_equals_numpy(self) -> None:
        """Normal, subnormal, tiny, huge and infinite numbers are rounded as NumPy rounds them."""
        rng = np.random.default_rng(0)
        x = (rng.standard_normal((4000, 4)) * 10.0 ** rng.integers(-9, 6, (4000, 1))).astype(np.float32)
        x[0] = [65504, 65519.9, 65520, -1e9]
        x[1] = [2.0**-24, 2.0**-25, 6e-8, -(2.0**-14)]
        x[2] = [0, 2049, 2051, np.inf]
        rounded = fp16.rounding_model(model([helper.make_node("Identity", ["x"], ["y"], "i")]), [])
        with np.errstate(over="ignore"):
            expected = x.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(run(rounded, x), expected)

    def test_overflow_propagates(self) -> None:
        """A value that overflows in float16 stays infinite, although this CPU computes in float32."""
        nodes = [helper.make_node("Add", ["x", "x"], ["a"], "a"), helper.make_node("Mul", ["a", "q"], ["y"], "y")]
        small = model(nodes, {"q": [0.25]})
        x = np.full((1, 4), 40000, np.float32)
        assert np.isinf(run(fp16.rounding_model(small, []), x)).all()
        np.testing.assert_array_equal(run(fp16.rounding_model(small, ["a", "y"]), x), x / 2)


class TestHalf:
    """Float16 with some nodes in float32."""

    def test_integers_stay(self) -> None:
        """An integer output keeps its type beside a float32 output."""
        nodes = [helper.make_node("Add", ["x", "x"], ["y"], "y"), helper.make_node("ArgMax", ["y"], ["c"], "c", axis=1)]
        both = model(nodes)
        both.graph.output.append(helper.make_tensor_value_info("c", TensorProto.INT64, ["batch", 1]))
        half = fp16.to_half(both, [])
        types = [output.type.tensor_type.elem_type for output in half.graph.output]
        assert types == [TensorProto.FLOAT, TensorProto.INT64]
        session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
        (classes,) = session.run(["c"], {"x": np.array([[0, 3, 1, 2]], np.float32)})
        assert (classes.dtype, classes.tolist()) == (np.int64, [[1]])

    def halve(self, original: onnx.ModelProto, x: np.ndarray) -> fp16.Fp16Result:
        names = [name for node in original.graph.node for name in node.output]

        def all_values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
            proto = onnx.ModelProto.FromString(proto.SerializeToString())
            outputs = {output.name for output in proto.graph.output}
            proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
            session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
            return dict(zip(names, session.run(names, {"x": x}), strict=True))

        def measure_sqnr(proto: onnx.ModelProto) -> dict[str, float]:
            return {name: sqnr_db(exact[name], value) for name, value in all_values(proto).items()}

        exact = all_values(original)
        largest = {name: float(np.abs(value).max()) for name, value in exact.items()}
        return fp16.halve(original, largest, measure_sqnr, [])

    def test_overflow(self) -> None:
        """Only nodes with an input or output that float16 cannot represent stay float32."""
        nodes = [
            helper.make_node("Relu", ["x"], ["r"], "r"),
            helper.make_node("Mul", ["r", "up"], ["big"], "big"),
            helper.make_node("Mul", ["big", "down"], ["back"], "back"),
            helper.make_node("Neg", ["back"], ["y"], "y"),
        ]
        x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
        original = model(nodes, {"up": [1e6], "down": [1e-6]})
        result = self.halve(original, x)
        assert list(result.float32_nodes) == ["big", "back"]
        assert all(reason.startswith("reaches") for reason in result.float32_nodes.values())
        assert sqnr_db(run(original, x), run(result.model, x)) > 55
        types = {weight.name: weight.data_type for weight in result.model.graph.initializer}
        assert types == {"up": TensorProto.FLOAT, "down": TensorProto.FLOAT}

    def test_cancellation(self) -> None:
        """A difference of large, almost equal numbers, which float16 loses, is detected by measurement."""
        nodes = [helper.make_node("Add", ["x", "c"], ["a"], "a"), helper.make_node("Sub", ["a", "c"], ["y"], "y")]
        x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
        result = self.halve(model(nodes, {"c": [3000.0]}), x)
        assert list(result.float32_nodes) == ["a", "y"]
        assert result.float32_nodes["a"].startswith("'y' has ")

    def test_large_weight(self) -> None:
        """The error names a weight that float16 cannot represent."""
        large = model([helper.make_node("Mul", ["x", "w"], ["y"], "m")], {"w": [1e6]})
        with pytest.raises(VariantError, match=r"the weight 'w' reaches 1e\+06"):
            fp16.to_half(large, [])
        with pytest.raises(VariantError, match=r"the weight 'w' of 'y' \(Mul\) reaches 1e\+06, over 65504"):
            fp16.halve(large, {"y": 1.0}, lambda _: {}, [])


def test_nothing_to_quantise() -> None:
    """A model without weights cannot be quantised."""
    with pytest.raises(VariantError, match="no convolution"):
        quantise(model([helper.make_node("Relu", ["x"], ["y"], "r")]), {})


def test_failing_quantiser(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of onnxruntime's quantiser rejects this variant only."""
    original = model([helper.make_node("MatMul", ["x", "w"], ["y"], "y")], {"w": np.eye(4, dtype=np.float32)})
    monkeypatch.setattr(int8.QDQQuantizer, "quantize_model", lambda _self: np.zeros(2) + np.zeros(3))
    with pytest.raises(VariantError, match="int8: onnxruntime's quantiser fails: ValueError: operands could not"):
        quantise(original, {})


def test_grouped_transposed_convolutions() -> None:
    """Grouped transposed convolutions, which the quantiser does not support, stay float32; the rest is quantised."""
    rng = np.random.default_rng(0)
    shapes = {"x_in": (4, 4), "up_w": (4, 2, 2, 2), "up_b": (4,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "x_in"], ["a"], "a"),
        helper.make_node("Unsqueeze", ["a", "axes"], ["b"], "b"),
        helper.make_node("ConvTranspose", ["b", "up_w", "up_b"], ["c"], "c", group=2),
        helper.make_node("ReduceMean", ["c", "axes"], ["y"], "y", keepdims=0),
    ]
    original = model(nodes, weights)
    original.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    x = rng.standard_normal((2, 4)).astype(np.float32)
    quantised = quantise(original, calibrate(original, [{"x": x}], "minmax"))
    assert 0 < np.abs(run(quantised, x) - run(original, x)).max() < 0.05 * np.abs(run(original, x)).max()


def test_stacks_of_matrices() -> None:
    """Products with stacks of matrices, which onnxruntime cannot run in int8, stay float32; others are quantised."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) for name, shape in (("stack", (3, 4, 4)), ("plain", (4, 4)))}
    nodes = [
        helper.make_node("MatMul", ["x", "stack"], ["a"], "a"),
        helper.make_node("ReduceSum", ["a", "first"], ["b"], "b", keepdims=0),
        helper.make_node("MatMul", ["b", "plain"], ["y"], "y"),
    ]
    original = model(nodes, weights)
    original.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    x = rng.standard_normal((2, 4)).astype(np.float32)
    quantised = quantise(original, calibrate(original, [{"x": x}], "minmax"))
    difference = np.abs(run(quantised, x) - run(original, x)).max()
    assert 0 < difference < 0.05 * np.abs(run(original, x)).max()
    assert "stack" in {node.input[1] for node in quantised.graph.node if node.op_type == "MatMul"}


class TestInputConstants:
    """The constants of the normalisation in an int8 model."""

    def normalising_model(self, width: int | str) -> onnx.ModelProto:
        """Return a model that only normalises images, (batch, 8, width, 3)."""
        preprocessing = Preprocessing(input_size=(3, 8, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, width]) for name in ("x", "y")]
        nodes = [helper.make_node("Relu", ["x"], ["logits"], "r"), helper.make_node("Relu", ["logits"], ["y"], "s")]
        graph = helper.make_graph(nodes, "test", infos[:1], infos[1:])
        network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return attach(network, preprocessing, Head())

    def test_spread_constants(self) -> None:
        """Constants repeated along the width give the same numbers, bit by bit."""
        plain, spread = self.normalising_model(6), self.normalising_model(6)
        spread_constants(spread)
        assert [list(weight.dims) for weight in spread.graph.initializer] == [[1, 3, 1, 6]] * 2
        x = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
        sessions = (onnxruntime.InferenceSession(proto.SerializeToString()) for proto in (plain, spread))
        before, after = (session.run(["y"], {"image": x})[0] for session in sessions)
        np.testing.assert_array_equal(before, after)

    def test_dynamic_width(self) -> None:
        """With a dynamic width the constants are unchanged."""
        dynamic = self.normalising_model("width")
        spread_constants(dynamic)
        assert [list(weight.dims) for weight in dynamic.graph.initializer] == [[1, 3, 1, 1]] * 2


def test_data_dependent_shape() -> None:
    """A value whose shape depends on the data cannot have a static shape."""
    nodes = [helper.make_node("NonZero", ["x"], ["where"], "n"), helper.make_node("Cast", ["where"], ["y"], "c", to=1)]
    with pytest.raises(VariantError, match="'x' and of 2 more values stay dynamic"):
        require_static(model(nodes))


def test_static_shapes_keep_the_original() -> None:
    """The original model is not modified."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "r")], "test", info[:1], info[1:])
    original = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    before = original.SerializeToString(deterministic=True)
    static = with_static_shapes(original, Preprocessing(input_size=(1, 8, 8), mean=(0.5,), std=(0.5,)))
    assert original.SerializeToString(deterministic=True) == before
    assert [dim.dim_value for dim in static.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 8, 8]


def test_sqnr() -> None:
    """Noise of a tenth of the signal is 20 dB; equal and non-finite values have the ends of the scale."""
    signal = np.array([3.0, 4.0])
    assert sqnr_db(signal, signal * 1.1) == 20.0
    assert (sqnr_db(signal, signal), sqnr_db(signal, signal * np.nan)) == (200.0, -200.0)


def test_sorting() -> None:
    """Each node comes after the nodes that compute its inputs; otherwise the order is kept."""
    pairs = [("c", "b"), ("d", "x"), ("b", "a"), ("a", "x")]
    nodes = [helper.make_node("Relu", [source], [name], name) for name, source in pairs]
    graph = model(nodes).graph
    sort_nodes(graph)
    assert [node.name for node in graph.node] == ["d", "a", "b", "c"]


def test_failing_memory_measurement() -> None:
    """If the separate process fails, the variant is rejected with the last line of its error."""
    content = model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
    with pytest.raises(VariantError, match=r"its memory measurement failed: .*(nothing|Invalid|feeds)"):
        memory.peak_mb(content, {"nothing": np.zeros(1, np.float32)})


class TestLatency:
    """Paired measurements."""

    def test_summary(self) -> None:
        """The speedup is the median of the ratios, not the ratio of the medians."""
        latency = summary("cpu", [(4.0, 1.0), (2.0, 2.0), (9.0, 3.0)] * 10)
        assert (latency.speedup, latency.fp32_ms.median, latency.variant_ms.median) == (3.0, 4.0, 2.0)
        assert latency.speedup_low <= 3.0 <= latency.speedup_high

    def test_early_stop(self) -> None:
        """A clear difference needs only the first series of rounds."""
        latency = compare("cpu", lambda: sum(range(20000)), lambda: sum(range(200)), bound=1.0)
        assert latency.speedup_low > 5
        assert latency.rounds == 30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bounds(max_accuracy_drop_points=-1), "from 0 to 100"),
        (lambda: Bounds(min_speedup=float("nan")), "1 means not slower"),
        (lambda: Bounds(min_sqnr_db=500), "from -200 to 200"),
        (lambda: VariantSettings(()), "each once"),
        (lambda: VariantSettings(("int8", "int8")), "each once"),
        (lambda: VariantSettings(("int8",), calibration_images=0), "at least 1"),
        (lambda: parse_kinds("int8,"), "no variant ''"),
    ],
)
def test_settings(make: object, message: str) -> None:
    """Values out of range are rejected."""
    with pytest.raises(SettingsError, match=message):
        make()
