"""Checks a request against its model's signature, before anything is computed."""

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from serve.errors import InvalidRequestError
from serve.repository.layer_index import LayerIndex
from serve.repository.model_config import Signature
from serve.wire import datatypes
from serve.wire.tensors import Array, Request, Tensor, TensorSpec


class TensorHeader(Protocol):
    """Description of a tensor in a message, without its data."""

    name: str
    datatype: str


def check_headers(headers: Sequence[TensorHeader], signature: Signature) -> None:
    """Check the inputs' names and datatypes, before any data is decoded.

    The decoder rejects datatypes that the protocol lacks.

    Raises:
        InvalidRequestError: An input is missing, unknown or repeated, or has another datatype than the model's.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    _check_names([header.name for header in islice(headers, len(specs) + 1)], list(specs))
    for header in headers:
        if header.datatype in datatypes.BY_NAME:
            _check_datatype(header.datatype, specs[header.name])


def validated_inputs(request: Request, signature: Signature) -> dict[str, Array]:
    """Return the request's arrays by input name.

    Raises:
        InvalidRequestError: An input is missing, unknown or repeated, or its datatype, shape or batch size is wrong.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    _check_names([tensor.name for tensor in request.inputs], list(specs))
    for tensor in request.inputs:
        _check_tensor(tensor, specs[tensor.name])
    if signature.max_batch_size:
        _check_batch(request.inputs, signature.max_batch_size)
    return {tensor.name: tensor.array for tensor in request.inputs}


def requested_values(request: Request, signature: Signature, layers: LayerIndex) -> dict[str, str]:
    """Return the graph value of each requested output and layer, by name in alphabetical order.

    A request without names requests all outputs of the model.

    Raises:
        UnknownOutputError: The model has no such output, and its file no such layer.
    """
    outputs = signature.output_names
    names = sorted(set(request.outputs) or outputs)
    return {name: name if name in outputs else layers.value(name) for name in names}


def _check_names(names: Sequence[str], expected: Sequence[str]) -> None:
    if names == expected:  # the usual case; otherwise find the error's message
        return
    checked: set[str] = set()
    for name in names:
        if name in checked:
            raise InvalidRequestError(f"input '{name}' appears more than once.")
        if name not in expected:
            raise InvalidRequestError(f"there is no input '{name}'; the model has {', '.join(expected)}.")
        checked.add(name)
    missing = [name for name in expected if name not in names]
    if missing:
        raise InvalidRequestError(f"input '{missing[0]}' is missing; the model has {', '.join(expected)}.")


def _check_tensor(tensor: Tensor, spec: TensorSpec) -> None:
    _check_datatype(tensor.datatype, spec)
    shape = tensor.array.shape
    matches = len(shape) == len(spec.shape) and all(
        expected in (-1, size) for expected, size in zip(spec.shape, shape, strict=True)
    )
    if not matches:
        raise InvalidRequestError(f"input '{spec.name}' expects shape {list(spec.shape)}; got {list(shape)}.")


def _check_datatype(datatype: str, spec: TensorSpec) -> None:
    if datatype != spec.datatype:
        raise InvalidRequestError(f"input '{spec.name}' expects {spec.datatype}; got {datatype}.")


def _check_batch(tensors: Sequence[Tensor], max_batch_size: int) -> None:
    sizes = sorted({tensor.array.shape[0] for tensor in tensors})
    if len(sizes) > 1:
        raise InvalidRequestError(f"all inputs must have the same batch size; got {sizes}.")
    if sizes and not 1 <= sizes[0] <= max_batch_size:
        raise InvalidRequestError(
            f"the batch size must be between 1 and {max_batch_size}; got {sizes[0]}. The limit is the model's "
            "max_batch_size in config.pbtxt, or, without that file, the server's --max-batch."
        )
