"""What runs: every value's shape at two batch sizes, at each promised size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from export.check.artifact import Subject
from export.check.results import Fault, Finding, found
from export.errors import ConversionError
from export.onnx_model.runtime import Runtime, every_value
from protos import manifest

BATCHES = (1, 3)
Array = npt.NDArray[Any]
Shapes = Mapping[str, Mapping[int, tuple[int, ...]]]  # of each value, at each batch


def check_shapes(subject: Subject) -> Finding:
    """Run the model at two batch sizes and infer its shapes anew; compare every value with what is promised.

    Where height and width are free it runs at each of those at which the export was checked.
    """
    file, name = str(subject.model_path), "shapes"
    sizes = _sizes(subject)
    if not sizes:
        return Finding(name, "not done", "an input has a free size besides the batch, and nothing says which is usual")
    try:
        seen = [_seen(subject, each) for each in sizes]
    except ConversionError as error:
        return found(name, "what onnxruntime computes", [Fault(file, str(error))])
    inferred, silence = _inferred(subject.model)
    promised = _promised(subject)
    broken = [words for each in seen for words in (*_broken(promised, each), *_contradicted(inferred, each))]
    faults = [Fault(file, words) for words in (*broken, *_never_free(subject, promised, seen))]
    agree = "ONNX's inference agrees where it knows" if not silence else f"ONNX's inference is silent: {silence}"
    ran = " and ".join(map(str, _batches(subject)))
    ran += f", each at {len(sizes)} sizes" if len(sizes) > 1 else ""
    return found(name, f"{len(seen[0])} values and {len(promised)} promises at batch {ran}; {agree}", faults)


def _batches(subject: Subject) -> tuple[int, ...]:
    """The batch sizes to run at: what the inputs fix, or BATCHES."""
    fixed = {dims[0] for dims in _inputs(subject).values() if dims and isinstance(dims[0], int)}
    return tuple(sorted(fixed)) or BATCHES


def _inputs(subject: Subject) -> dict[str, tuple[int | None, ...]]:
    weights = {weight.name for weight in subject.model.graph.initializer}
    return {
        info.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim
        )
        for info in subject.model.graph.input
        if info.name not in weights
    }


def _sizes(subject: Subject) -> list[dict[str, tuple[int, ...]]]:
    """The sizes of each input behind the batch, as often as there are some to run at.

    There are none where they are free and nothing says which are usual.
    """
    inputs = {name: dims[1:] for name, dims in _inputs(subject).items()}
    if not any(None in tail for tail in inputs.values()):
        return [{name: tuple(size for size in tail if size is not None) for name, tail in inputs.items()}]
    return [
        {name: _filled(tail, _datatype(subject, name), size) for name, tail in inputs.items()}
        for size in _usual_sizes(subject)
    ]


def _usual_sizes(subject: Subject) -> list[tuple[int, int, int]]:
    """(C, H, W) of images: those at which the export was checked, or that of the rule for images."""
    if not subject.promise:
        return []
    rule = subject.promise.preprocessing
    checked = dict.fromkeys((check.height, check.width) for check in subject.promise.parity.checks if check.height)
    usual = list(checked) or ([(rule.height, rule.width)] if rule.height else [])
    return [(rule.channels, *size) for size in usual]


def _filled(tail: Sequence[int | None], elem_type: int, size: tuple[int, int, int]) -> tuple[int, ...]:
    """Bytes have their channels last."""
    channels, height, width = size
    usual = (height, width, channels) if elem_type == onnx.TensorProto.UINT8 else size
    return tuple(given if given is not None else own for given, own in zip(tail, usual, strict=True))


def _datatype(subject: Subject, name: str) -> int:
    return next(info.type.tensor_type.elem_type for info in subject.model.graph.input if info.name == name)


def _seen(subject: Subject, sizes: Mapping[str, tuple[int, ...]]) -> Shapes:
    values = every_value(subject.model)
    runtime = Runtime(subject.model, values, optimise=False, weights=subject.folder)
    seen: dict[str, dict[int, tuple[int, ...]]] = {value: {} for value in values}
    for batch in _batches(subject):
        feeds = {name: _noise(_datatype(subject, name), (batch, *tail)) for name, tail in sizes.items()}
        computed = runtime.run(feeds, values)
        for value in values:
            seen[value][batch] = np.shape(computed[value])
    return seen


def _noise(elem_type: int, shape: tuple[int, ...]) -> Array:
    """Pixels for bytes, normal numbers for floats; zeros, which are always valid, for everything else."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    random = np.random.default_rng(0)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def _promised(subject: Subject) -> list[tuple[str, str, Sequence[int]]]:
    """Who is promised which shape, -1 where the batch decides, and the value that has it."""
    outputs: list[tuple[str, str, Sequence[int]]] = [
        (f"output '{info.name}'", info.name, [dim.dim_value if dim.HasField("dim_value") else -1 for dim in shape.dim])
        for info in subject.model.graph.output
        if (shape := info.type.tensor_type.shape) and info.type.tensor_type.HasField("shape")
    ]
    layers: Sequence[manifest.Layer] = subject.promise.layer_map.layers if subject.promise else ()
    return outputs + [(f"layer '{layer.name}'", layer.value, list(layer.shape)) for layer in layers if layer.value]


def _broken(promised: Sequence[tuple[str, str, Sequence[int]]], seen: Shapes) -> Iterator[str]:
    for who, value, shape in promised:
        if value in seen and not _fits(shape, seen[value]):
            shown = ", ".join(f"{list(has)} at batch {batch}" for batch, has in seen[value].items())
            yield f"{who} should have the shape {list(shape)}; onnxruntime gives {shown}"


def _fits(shape: Sequence[int], seen: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether sizes are as promised; one that is free stays, or grows with the batch."""
    if any(len(has) != len(shape) for has in seen.values()):
        return False
    for axis, size in enumerate(shape):
        sizes = {has[axis] for has in seen.values()}
        grows = len({has[axis] / batch for batch, has in seen.items()}) == 1
        if sizes != {size} and (size >= 0 or not (grows or len(sizes) == 1)):
            return False
    return True


def _never_free(
    subject: Subject, promised: Sequence[tuple[str, str, Sequence[int]]], seen: Sequence[Shapes]
) -> Iterator[str]:
    """Free sizes of layers that nothing decides: they are the same at every batch and size that are free."""
    if len(seen) == 1 and any(None in dims[1:] for dims in _inputs(subject).values()):
        return  # a variant of a model with free sizes, which names but the usual one
    for who, value, shape in promised:
        shapes = [has for each in seen for has in each.get(value, {}).values()]
        if who.startswith("layer") and len(shapes) > 1 and all(len(has) == len(shape) for has in shapes):
            for axis, size in enumerate(shape):
                if size < 0 and len({has[axis] for has in shapes}) == 1:
                    yield f"{who} should have a free size on axis {axis}; it is always {shapes[0][axis]}"


def _inferred(model: onnx.ModelProto) -> tuple[dict[str, list[int | None]], str]:
    """What ONNX's strict inference says of each value, None where it knows no size; why it says nothing."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    try:
        whole = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        return {}, " ".join(str(error).split())[:100]
    return {
        info.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
        for info in whole.graph.value_info
        if info.type.tensor_type.HasField("shape")
    }, ""


def _contradicted(inferred: Mapping[str, list[int | None]], seen: Shapes) -> Iterator[str]:
    for value, shape in inferred.items():
        for batch, has in seen.get(value, {}).items():
            known = [size for size in zip(shape, has, strict=False) if size[0] is not None]
            if len(shape) != len(has) or any(said != size for said, size in known):
                yield f"value '{value}' is {list(has)} at batch {batch}; ONNX's inference says {shape}"
