"""Checks that the ONNX file, the manifest and config.pbtxt agree with each other.

Without a manifest, only the ONNX file and config.pbtxt are compared.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx
from google.protobuf import json_format
from google.protobuf.message import Message

from export.check.artifact import Artifact
from export.check.results import CheckResult, Failure
from protos import inference, manifest
from protos.files import CONFIG, LABELS, MANIFEST
from protos.keys import LABELS_KEY, PREPROCESSING_KEY
from protos.labels import parse_labels

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
Tensor = tuple[str, tuple[int, ...]]  # datatype and shape, -1 for a dynamic size


def check_format(artifact: Artifact) -> CheckResult:
    """Run the ONNX checker; compare opset and IR version with the manifest."""
    file = str(artifact.model_path)
    failures = []
    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        failures.append(Failure(file, f"rejected by the ONNX checker: {' '.join(str(error).split())[:300]}"))
    opset = next((entry.version for entry in artifact.model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    actual = {"opset": opset, "IR version": artifact.model.ir_version}
    if artifact.manifest:
        recorded = artifact.manifest.format
        expected = {"opset": recorded.opset, "IR version": recorded.ir_version}
        failures += [
            Failure(file, f"expected {name} {value} ({MANIFEST}), got {actual[name]}")
            for name, value in expected.items()
            if actual[name] != value
        ]
    details = f"ONNX checker; opset {opset}, IR version {actual['IR version']}"
    return CheckResult.from_failures("format", details, failures)


def check_interface(artifact: Artifact) -> CheckResult:
    """Compare names, datatypes and shapes of inputs and outputs."""
    weights = {weight.name for weight in artifact.model.graph.initializer}
    inputs = {info.name: _graph_tensor(info) for info in artifact.model.graph.input if info.name not in weights}
    outputs = {info.name: _graph_tensor(info) for info in artifact.model.graph.output}
    failures: list[Failure] = []
    if artifact.manifest:
        file = str(artifact.model_path)
        failures += _differences(file, "input", inputs, _manifest_tensors(artifact.manifest.inputs), MANIFEST)
        failures += _differences(file, "output", outputs, _manifest_tensors(artifact.manifest.outputs), MANIFEST)
    if artifact.config:
        config, source = str(artifact.model_folder / CONFIG), artifact.model_path.name
        configured_inputs = _configured_tensors(artifact.config, artifact.config.input)
        configured_outputs = _configured_tensors(artifact.config, artifact.config.output)
        failures += _differences(config, "input", configured_inputs, inputs, source)
        failures += _differences(config, "output", configured_outputs, outputs, source)
        failures += _name_failures(artifact)
    details = f"inputs: {', '.join(inputs)}; outputs: {', '.join(outputs)}"
    return CheckResult.from_failures("interface", details, failures)


def _name_failures(artifact: Artifact) -> Iterator[Failure]:
    """Compare the model's name in config.pbtxt and in the manifest with the name of its folder."""
    names = {artifact.model_folder / CONFIG: artifact.config.name if artifact.config else ""}
    if artifact.manifest:
        names[artifact.folder / MANIFEST] = artifact.manifest.name
    for path, name in names.items():
        if name not in ("", artifact.model_name):
            yield Failure(str(path), f"expected model name '{artifact.model_name}' (its folder), got '{name}'")


def _differences(
    file: str, kind: str, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> Iterator[Failure]:
    for name in sorted(actual.keys() | expected.keys()):
        if actual.get(name) != expected.get(name):
            expected_text, actual_text = _format_tensor(expected.get(name)), _format_tensor(actual.get(name))
            yield Failure(file, f"{kind} '{name}': expected {expected_text} ({source}), got {actual_text}")


def _format_tensor(tensor: Tensor | None) -> str:
    return f"{tensor[0]} {list(tensor[1])}" if tensor else "no such tensor"


def _graph_tensor(info: onnx.ValueInfoProto) -> Tensor:
    tensor = info.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return DATATYPES.get(tensor.elem_type, f"ONNX type {tensor.elem_type}"), shape


def _manifest_tensors(tensors: Sequence[manifest.Tensor]) -> dict[str, Tensor]:
    return {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in tensors}


def _configured_tensors(config: inference.ModelConfig, tensors: Sequence[Any]) -> dict[str, Tensor]:
    """Return the tensors in config.pbtxt; its shapes omit the batch unless max_batch_size is 0."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    return {
        tensor.name: (inference.DataType.Name(tensor.data_type).removeprefix("TYPE_"), (*batch, *tensor.dims))
        for tensor in tensors
    }


def check_labels(artifact: Artifact) -> CheckResult:
    """Compare labels.txt with the labels in manifest, ONNX file and config.pbtxt, and with the number of classes."""
    path = artifact.model_folder / LABELS
    lines = parse_labels(path.read_bytes()) if path.is_file() else []
    failures = [
        Failure(file, f"labels differ from {LABELS}")
        for file, labels in _declarations(artifact, LABELS_KEY, lambda manifest: list(manifest.labels))
        if (labels or []) != lines
    ]
    for output in artifact.config.output if artifact.config else ():
        if output.label_filename == LABELS and [len(lines)] != output.dims[-1:]:
            classes = f"{output.dims[-1]} classes" if output.dims else "no classes"
            failures.append(Failure(str(path), f"has {len(lines)} labels, but output '{output.name}' has {classes}"))
    return CheckResult.from_failures("labels", f"{len(lines)} labels" if lines else "no labels", failures)


def check_preprocessing(artifact: Artifact) -> CheckResult:
    """Compare the preprocessing of images in manifest, ONNX file and config.pbtxt."""
    declarations = list(_declarations(artifact, PREPROCESSING_KEY, lambda manifest: _fields(manifest.preprocessing)))
    first_file, first = declarations[0] if declarations else ("", None)
    failures = [
        Failure(file, f"preprocessing differs from {first_file}")
        for file, preprocessing in declarations
        if (preprocessing or {}) != (first or {})
    ]
    details = f"the same in {len(declarations)} files" if first else "no preprocessing"
    return CheckResult.from_failures("preprocessing", details, failures)


def _declarations(
    artifact: Artifact, key: str, from_manifest: Callable[[manifest.Manifest], Any]
) -> Iterator[tuple[str, Any]]:
    """Yield each file that must declare a property, the manifest first, and the declared value.

    Without a manifest, only the files that declare the property are yielded.
    """
    if artifact.manifest:
        yield str(artifact.folder / MANIFEST), from_manifest(artifact.manifest)
    if artifact.manifest or key in artifact.metadata:
        yield str(artifact.model_path), _parse_json(artifact.metadata.get(key, ""))
    if artifact.config and (artifact.manifest or key in artifact.config.parameters):
        yield str(artifact.model_folder / CONFIG), _parse_json(artifact.config.parameters[key].string_value)


def _fields(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _parse_json(text: str) -> Any:
    """Return the parsed JSON; None for an empty text; the text itself, which equals no valid value, if malformed."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
