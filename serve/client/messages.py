"""Conversion between the protocol's messages and the arguments and results of the clients."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from protos import inference, introspect, manifest
from protos.keys import LABELS_KEY, MULTI_LABEL, TASK_KEY
from serve.client.batches import limits_of
from serve.client.model_info import LayerInfo, ModelInfo
from serve.client.preprocessing import Preprocessing
from serve.errors import InvalidRequestError, RefusedError, ServerFailedError
from serve.repository.layer_index import absence_reason
from serve.wire import codec, datatypes
from serve.wire.tensors import Array, Request, Tensor, TensorSpec

MAX_VALUE_LENGTH = 80  # characters of a value in a message


def infer_request(
    model: str, inputs: Mapping[str, npt.ArrayLike], outputs: Sequence[str] | None, version: str
) -> Request:
    """Return a request for numpy arrays. Raises: RefusedError if an array cannot be sent."""
    if not isinstance(inputs, Mapping):
        raise RefusedError(f"inputs are a dict of arrays by input name; got {type(inputs).__name__}.")
    tensors = tuple(_tensor(name, values) for name, values in inputs.items())
    return Request(model, version, "", tensors, tuple(outputs or ()))


def infer_outputs(response: inference.ModelInferResponse, url: str) -> dict[str, Array]:
    """Return a response's outputs by name. Raises: ServerFailedError if data and description contradict each other."""
    try:
        tensors = list(codec.tensors(response.outputs, response.raw_output_contents))
    except InvalidRequestError as error:
        raise ServerFailedError(f"{url} sent an inconsistent response: {error}") from error
    return {tensor.name: array_from_tensor(tensor) for tensor in tensors}


def array_from_tensor(tensor: Tensor) -> Array:
    """Return a tensor's array, BF16 converted to float32."""
    return datatypes.float32_from_bf16(tensor.array) if tensor.datatype == datatypes.BF16.name else tensor.array


def model_info(metadata: inference.ModelMetadataResponse, config: inference.ModelConfig) -> ModelInfo:
    """Combine a model's metadata and configuration. Raises: UnsupportedModelError if its preprocessing is unknown."""
    parameters = config.parameters
    return ModelInfo(
        name=metadata.name,
        version=max(metadata.versions, key=int, default=""),
        inputs=tuple(map(_tensor_spec, metadata.inputs)),
        outputs=tuple(map(_tensor_spec, metadata.outputs)),
        max_batch_size=config.max_batch_size,
        labels=tuple(json.loads(parameters[LABELS_KEY].string_value)) if LABELS_KEY in parameters else (),
        preprocessing=Preprocessing.from_parameters(parameters),
        multi_label=TASK_KEY in parameters and parameters[TASK_KEY].string_value == MULTI_LABEL,
        max_message_bytes=limits_of(config).max_message_bytes,
    )


def matching_layers(response: introspect.LayersResponse, pattern: str) -> tuple[LayerInfo, ...]:
    """Return the response's layers whose names match the glob `pattern`, in their order."""
    return tuple(_layer_info(layer) for layer in response.layers if fnmatchcase(layer.name, pattern))


def _layer_info(layer: manifest.Layer) -> LayerInfo:
    missing_reason = "" if layer.value else absence_reason(layer)
    return LayerInfo(layer.name, layer.kind, tuple(layer.shape), missing_reason, layer.value)


def _tensor_spec(tensor: inference.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))


def _tensor(name: str, values: npt.ArrayLike) -> Tensor:
    array = _as_array(name, values)
    if array.dtype.kind in "OSUT":
        elements = [_as_bytes(name, value) for value in array.astype(object).ravel()]
        return Tensor(name, datatypes.BYTES.name, np.array(elements, object).reshape(array.shape))
    if array.dtype.name == "bfloat16":  # from the package ml_dtypes
        return Tensor(name, datatypes.BF16.name, np.ascontiguousarray(array).view(datatypes.BF16.numpy))
    datatype = datatypes.BY_NUMPY.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise RefusedError(f"input '{name}': the protocol has no datatype for numpy's {array.dtype}.")
    return Tensor(name, datatype.name, array)


def _as_array(name: str, values: object) -> Array:
    if isinstance(values, Mapping):
        names = ", ".join(f"'{name}.{key}'" for key in values)
        raise RefusedError(f"input '{name}' is a dict: pass an array for each input, named such as {names}.")
    try:
        return np.asarray(values)
    except Exception as error:  # numpy calls the object's own conversion, which may raise anything
        raise RefusedError(f"input '{name}' cannot be converted to a numpy array: {error}") from error


def _as_bytes(name: str, value: object) -> bytes:
    """Return an element of an object array as BYTES; numbers are refused, because BYTES would hide their datatype."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise RefusedError(
            f"input '{name}' is an array of objects with the element {_short(value)} ({type(value).__name__}), but "
            "only str and bytes can be sent as BYTES: pass numbers as an array of a number type, such as float32, or "
            "as text."
        )
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"input '{name}' has the element {value!r}, which UTF-8 cannot encode: {error}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
