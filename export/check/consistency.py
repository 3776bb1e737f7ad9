"""Words: the ONNX file, the manifest and config.pbtxt must say the same.

What has no manifest promises less: then the file and config.pbtxt are compared with each other.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx
from google.protobuf import json_format
from google.protobuf.message import Message

from export.check.artifact import Subject
from export.check.results import Fault, Finding, found
from export.names import CONFIG, LABELS, LABELS_KEY, MANIFEST, PREPROCESSING_KEY
from protos import inference, manifest

DATATYPES: dict[int, str] = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.STRING: "STRING",
    onnx.TensorProto.BFLOAT16: "BF16",
}
Tensor = tuple[str, tuple[int, ...]]  # datatype and shape, -1 where a size is free


def check_format(subject: Subject) -> Finding:
    """Ask ONNX's own checker; compare opset and IR version with the manifest."""
    file = str(subject.model_path)
    faults = []
    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        faults.append(Fault(file, f"ONNX's own checker refuses it: {' '.join(str(error).split())[:300]}"))
    opset = next((each.version for each in subject.model.opset_import if each.domain in ("", "ai.onnx")), 0)
    has = {"opset": opset, "IR version": subject.model.ir_version}
    if subject.promise:
        form = subject.promise.format
        promised = {"opset": form.opset, "IR version": form.ir_version}
        faults += [
            Fault(file, f"it has {name} {has[name]}; {MANIFEST} promises {value}")
            for name, value in promised.items()
            if has[name] != value
        ]
    return found("format", f"ONNX's checker; opset {opset}, IR version {has['IR version']}", faults)


def check_interface(subject: Subject) -> Finding:
    """Compare names, datatypes and shapes of inputs and outputs."""
    weights = {weight.name for weight in subject.model.graph.initializer}
    inputs = {info.name: _tensor(info) for info in subject.model.graph.input if info.name not in weights}
    outputs = {info.name: _tensor(info) for info in subject.model.graph.output}
    faults: list[Fault] = []
    if subject.promise:
        file = str(subject.model_path)
        faults += _differences(file, "input", inputs, _promised(subject.promise.inputs), MANIFEST)
        faults += _differences(file, "output", outputs, _promised(subject.promise.outputs), MANIFEST)
    if subject.config:
        config = str(subject.shared / CONFIG)
        faults += _differences(config, "input", _configured(subject.config, subject.config.input), inputs, "the file")
        faults += _differences(
            config, "output", _configured(subject.config, subject.config.output), outputs, "the file"
        )
        faults += _name_faults(subject)
    return found("interface", f"inputs {', '.join(inputs)}; outputs {', '.join(outputs)}", faults)


def _name_faults(subject: Subject) -> Iterator[Fault]:
    """The model's name is its folder's, in config.pbtxt and in the manifest."""
    named = {CONFIG: (subject.shared / CONFIG, subject.config.name if subject.config else "")}
    if subject.promise:
        named[MANIFEST] = (subject.folder / MANIFEST, subject.promise.name)
    for path, name in named.values():
        if name not in ("", subject.name):
            yield Fault(str(path), f"it is of a model '{name}', but its folder is '{subject.name}'")


def _differences(
    file: str, kind: str, has: Mapping[str, Tensor], wanted: Mapping[str, Tensor], of: str
) -> Iterator[Fault]:
    for name in sorted(has.keys() | wanted.keys()):
        if has.get(name) != wanted.get(name):
            yield Fault(file, f"{kind} '{name}' is {_shown(has.get(name))}; {of} says {_shown(wanted.get(name))}")


def _shown(tensor: Tensor | None) -> str:
    return f"{tensor[0]} of {list(tensor[1])}" if tensor else "not there"


def _tensor(info: onnx.ValueInfoProto) -> Tensor:
    kind = info.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return DATATYPES.get(kind.elem_type, f"ONNX type {kind.elem_type}"), shape


def _promised(tensors: Sequence[manifest.Tensor]) -> dict[str, Tensor]:
    return {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in tensors}


def _configured(config: inference.ModelConfig, tensors: Sequence[Any]) -> dict[str, Tensor]:
    """What config.pbtxt says of tensors: its shapes leave out the batch where there may be one."""
    free = (-1,) if config.max_batch_size > 0 else ()
    return {
        each.name: (inference.DataType.Name(each.data_type).removeprefix("TYPE_"), (*free, *each.dims))
        for each in tensors
    }


def check_labels(subject: Subject) -> Finding:
    """Compare labels.txt with the labels in the manifest, in the file and in config.pbtxt, and with the outputs."""
    path = subject.shared / LABELS
    lines = path.read_text("utf-8").split("\n")[:-1] if path.is_file() else []
    faults = [
        Fault(file, f"its labels are not those of {LABELS}")
        for file, labels in _said(subject, LABELS_KEY, lambda promise: list(promise.labels))
        if (labels or []) != lines
    ]
    for output in subject.config.output if subject.config else ():
        if output.label_filename == LABELS and [len(lines)] != output.dims[-1:]:
            classes = f"{output.dims[-1]} classes" if output.dims else "no classes"
            faults.append(Fault(str(path), f"it has {len(lines)} labels; output '{output.name}' has {classes}"))
    return found("labels", f"{len(lines)} labels" if lines else "no labels", faults)


def check_preprocessing(subject: Subject) -> Finding:
    """Compare the rule from an image to the input in the manifest, in the file and in config.pbtxt."""
    rules = list(_said(subject, PREPROCESSING_KEY, lambda promise: _fields(promise.preprocessing)))
    first = rules[0] if rules else ("", None)
    faults = [
        Fault(file, f"its rule for images is not that of {first[0]}")
        for file, rule in rules
        if (rule or {}) != (first[1] or {})
    ]
    return found("preprocessing", f"the same rule in {len(rules)} places" if first[1] else "no rule", faults)


def _said(subject: Subject, key: str, of: Callable[[manifest.Manifest], Any]) -> Iterator[tuple[str, Any]]:
    """What each place says, by its file, the manifest first; what others made need not say anything."""
    if subject.promise:
        yield str(subject.folder / MANIFEST), of(subject.promise)
    if subject.promise or key in subject.metadata:
        yield str(subject.model_path), _json(subject.metadata.get(key, ""))
    if subject.config and (subject.promise or key in subject.config.parameters):
        yield str(subject.shared / CONFIG), _json(subject.config.parameters[key].string_value)


def _fields(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _json(text: str) -> Any:
    """Return what JSON text holds, None where there is none."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text  # equal to nothing that is promised
