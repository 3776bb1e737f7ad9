"""Runs the model and checks the shape of every value at two batch sizes and at each recorded input size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from export.arrays import Array
from export.check.artifact import Artifact
from export.check.results import CheckResult, Failure
from export.errors import ConversionError
from export.onnx_model.runtime import Runtime, value_names
from protos import manifest

BATCH_SIZES = (1, 3)
Shape = tuple[int, ...]
ShapesByBatch = Mapping[int, Shape]
InputShapes = dict[str, Shape]  # by input, without the batch


class ExpectedShape(NamedTuple):
    """The declared shape of an output or a layer.

    Attributes:
        owner: The output or layer, as in error messages.
        value: Name of the value in the graph.
        shape: The sizes, -1 for a dynamic one.
    """

    owner: str
    value: str
    shape: Sequence[int]


def check_shapes(artifact: Artifact) -> CheckResult:
    """Run the model at two batch sizes and infer its shapes; compare every value with the declared shapes.

    With dynamic height and width, the model runs at each input size that the export checked.
    """
    file, check = str(artifact.model_path), "shapes"
    sizes = _input_sizes(artifact)
    if not sizes:
        return CheckResult.not_run(
            check, "an input has a dynamic size besides the batch, and its usual size is unknown"
        )
    try:
        runs = [_computed_shapes(artifact, shapes) for shapes in sizes]
    except ConversionError as error:
        return CheckResult.from_failures(check, "shapes in onnxruntime", [Failure(file, str(error))])
    inferred, inference_error = _inferred_shapes(artifact.model)
    expected = _expected_shapes(artifact)
    messages = [message for run in runs for message in (*_mismatches(expected, run), *_contradictions(inferred, run))]
    messages += _constant_sizes(artifact, expected, runs)
    inference = f"fails: {inference_error}" if inference_error else "agrees"
    batches = " and ".join(map(str, _batch_sizes(artifact)))
    batches += f", each at {len(sizes)} sizes" if len(sizes) > 1 else ""
    details = (
        f"{len(runs[0])} values, {len(expected)} declared shapes, at batch {batches}; ONNX shape inference {inference}"
    )
    return CheckResult.from_failures(check, details, [Failure(file, message) for message in messages])


def _batch_sizes(artifact: Artifact) -> tuple[int, ...]:
    """Return the batch sizes to run: those of inputs with a fixed batch, or else BATCH_SIZES."""
    fixed = {dims[0] for dims in _input_dims(artifact).values() if dims and isinstance(dims[0], int)}
    return tuple(sorted(fixed)) or BATCH_SIZES


def _input_dims(artifact: Artifact) -> dict[str, tuple[int | None, ...]]:
    """Return the sizes of each input, None for a dynamic one."""
    weights = {weight.name for weight in artifact.model.graph.initializer}
    return {
        info.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim
        )
        for info in artifact.model.graph.input
        if info.name not in weights
    }


def _input_sizes(artifact: Artifact) -> list[InputShapes]:
    """Return the input shapes to run; empty if a size is dynamic and its usual value is unknown."""
    inputs = {name: dims[1:] for name, dims in _input_dims(artifact).items()}
    if not any(None in dims for dims in inputs.values()):
        return [{name: tuple(size for size in dims if size is not None) for name, dims in inputs.items()}]
    return [
        {name: _fill(dims, _elem_type(artifact, name), image_size) for name, dims in inputs.items()}
        for image_size in _image_sizes(artifact)
    ]


def _image_sizes(artifact: Artifact) -> list[tuple[int, int, int]]:
    """Return (C, H, W) of images: the sizes that the export checked, or else the size of the preprocessing."""
    if not artifact.manifest:
        return []
    preprocessing, checks = artifact.manifest.preprocessing, artifact.manifest.parity.checks
    sizes = list(dict.fromkeys((check.height, check.width) for check in checks if check.height))
    if not sizes and preprocessing.height:
        sizes = [(preprocessing.height, preprocessing.width)]
    return [(preprocessing.channels, *size) for size in sizes]


def _fill(dims: Sequence[int | None], elem_type: int, image_size: tuple[int, int, int]) -> Shape:
    """Replace dynamic sizes by those of an image: NHWC for bytes, NCHW otherwise."""
    channels, height, width = image_size
    image_shape = (height, width, channels) if elem_type == onnx.TensorProto.UINT8 else image_size
    return tuple(fixed if fixed is not None else size for fixed, size in zip(dims, image_shape, strict=True))


def _elem_type(artifact: Artifact, name: str) -> int:
    return next(info.type.tensor_type.elem_type for info in artifact.model.graph.input if info.name == name)


def _computed_shapes(artifact: Artifact, inputs: InputShapes) -> Mapping[str, ShapesByBatch]:
    """Run the model without optimisation at each batch size and return the shape of every value."""
    values = value_names(artifact.model)
    runtime = Runtime(artifact.model, values, optimise=False, weights=artifact.folder)
    shapes: dict[str, dict[int, Shape]] = {value: {} for value in values}
    for batch in _batch_sizes(artifact):
        feeds = {name: _test_input(artifact, name, (batch, *dims)) for name, dims in inputs.items()}
        arrays = runtime.run(feeds, values)
        for value in values:
            shapes[value][batch] = np.shape(arrays[value])
    return shapes


def _test_input(artifact: Artifact, name: str, shape: Shape) -> Array:
    """Return random numbers within the declared limits.

    Without limits, return random pixels for bytes, normal numbers for floats, and zeros, which are always valid, for
    other types.
    """
    dtype = helper.tensor_dtype_to_np_dtype(_elem_type(artifact, name))
    random = np.random.default_rng(0)
    tensors = artifact.manifest.inputs if artifact.manifest else ()
    limits = next((tensor.limits for tensor in tensors if tensor.name == name and tensor.HasField("limits")), None)
    if limits:
        numbers = random.uniform(limits.low, limits.high, shape)
        return (numbers if dtype.kind == "f" else numbers.round()).astype(dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def _expected_shapes(artifact: Artifact) -> list[ExpectedShape]:
    """Return the shapes that the graph declares for its outputs and the manifest for its layers."""
    outputs = [
        ExpectedShape(
            f"output '{info.name}'",
            info.name,
            [dim.dim_value if dim.HasField("dim_value") else -1 for dim in info.type.tensor_type.shape.dim],
        )
        for info in artifact.model.graph.output
        if info.type.tensor_type.HasField("shape")
    ]
    layers: Sequence[manifest.Layer] = artifact.manifest.layer_map.layers if artifact.manifest else ()
    return outputs + [
        ExpectedShape(f"layer '{layer.name}'", layer.value, list(layer.shape)) for layer in layers if layer.value
    ]


def _mismatches(expected: Sequence[ExpectedShape], computed: Mapping[str, ShapesByBatch]) -> Iterator[str]:
    for owner, value, shape in expected:
        if value in computed and not _matches(shape, computed[value]):
            shapes = ", ".join(f"{list(actual)} at batch {batch}" for batch, actual in computed[value].items())
            yield f"{owner}: expected shape {list(shape)}, got {shapes}"


def _matches(shape: Sequence[int], computed: ShapesByBatch) -> bool:
    """Return whether each size is as declared; a dynamic size may be constant or proportional to the batch."""
    if any(len(actual) != len(shape) for actual in computed.values()):
        return False
    for axis, size in enumerate(shape):
        sizes = {actual[axis] for actual in computed.values()}
        is_proportional = len({actual[axis] / batch for batch, actual in computed.items()}) == 1
        if sizes != {size} and (size >= 0 or not (is_proportional or len(sizes) == 1)):
            return False
    return True


def _constant_sizes(
    artifact: Artifact, expected: Sequence[ExpectedShape], runs: Sequence[Mapping[str, ShapesByBatch]]
) -> Iterator[str]:
    """Yield layers with a size that is declared as dynamic, but is the same in all runs."""
    if len(runs) == 1 and any(None in dims[1:] for dims in _input_dims(artifact).values()):
        return  # a variant of a model with dynamic sizes, whose manifest records only the usual size
    for owner, value, shape in expected:
        shapes = [actual for run in runs for actual in run.get(value, {}).values()]
        if owner.startswith("layer") and len(shapes) > 1 and all(len(actual) == len(shape) for actual in shapes):
            for axis, size in enumerate(shape):
                if size < 0 and len({actual[axis] for actual in shapes}) == 1:
                    yield f"{owner}: expected a dynamic size on axis {axis}, got {shapes[0][axis]} in all runs"


def _inferred_shapes(model: onnx.ModelProto) -> tuple[dict[str, list[int | None]], str]:
    """Return the shapes by ONNX's strict inference, None for an unknown size, and its error, if any."""
    without_infos = onnx.ModelProto()
    without_infos.CopyFrom(model)
    del without_infos.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(without_infos, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        return {}, " ".join(str(error).split())[:100]
    return {
        info.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
        for info in inferred.graph.value_info
        if info.type.tensor_type.HasField("shape")
    }, ""


def _contradictions(inferred: Mapping[str, list[int | None]], computed: Mapping[str, ShapesByBatch]) -> Iterator[str]:
    for value, shape in inferred.items():
        for batch, actual in computed.get(value, {}).items():
            known = [pair for pair in zip(shape, actual, strict=False) if pair[0] is not None]
            if len(shape) != len(actual) or any(expected != size for expected, size in known):
                sizes = ", ".join("?" if size is None else str(size) for size in shape)
                yield (
                    f"value '{value}': expected shape [{sizes}] (ONNX shape inference), "
                    f"got {list(actual)} at batch {batch}"
                )
