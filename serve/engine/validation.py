"""Compares a request with what its model takes, before anything is computed."""

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from serve.errors import InvalidRequestError
from serve.repository.layer_index import LayerIndex
from serve.repository.model_config import Signature
from serve.wire import datatypes
from serve.wire.tensors import Array, Request, Tensor, TensorSpec


class Described(Protocol):
    """What a message says of a tensor before its data is read."""

    name: str
    datatype: str


def descriptions(described: Sequence[Described], signature: Signature) -> None:
    """Compare names and datatypes with the model's, before any data is decoded.

    A datatype that nobody knows is left to who decodes.

    Raises:
        InvalidRequestError: an input is missing, unknown or given twice, or of another datatype.
    """
    specs = {each.name: each for each in signature.inputs}
    _check_names([each.name for each in islice(described, len(specs) + 1)], list(specs))
    for each in described:
        if each.datatype in datatypes.BY_NAME:
            _check_datatype(each.datatype, specs[each.name])


def inputs(request: Request, signature: Signature) -> dict[str, Array]:
    """Return the request's arrays by input.

    Raises:
        InvalidRequestError: an input is missing, unknown or given twice, or its datatype, shape or batch is wrong.
    """
    _check_names([each.name for each in request.inputs], [each.name for each in signature.inputs])
    specs = {each.name: each for each in signature.inputs}
    for tensor in request.inputs:
        _check_tensor(tensor, specs[tensor.name])
    if signature.max_batch_size:
        _check_batch(request.inputs, signature.max_batch_size)
    return {tensor.name: tensor.array for tensor in request.inputs}


def outputs(request: Request, signature: Signature, layers: LayerIndex) -> dict[str, str]:
    """Return the wanted outputs and layers in alphabetical order, each with the graph's value that holds it.

    A request that names none wants all outputs.

    Raises:
        UnknownOutputError: the model has no such output, and no such layer in its file.
    """
    known = signature.output_names
    wanted = sorted(set(request.outputs) or known)
    return {name: name if name in known else layers.value(name) for name in wanted}


def _check_names(given: Sequence[str], known: Sequence[str]) -> None:
    if given == known:  # nearly always; what follows is for the words
        return
    seen: set[str] = set()
    for name in given:
        if name in seen:
            raise InvalidRequestError(f"input '{name}' is given more than once.")
        if name not in known:
            raise InvalidRequestError(f"there is no input '{name}'; the model takes {', '.join(known)}.")
        seen.add(name)
    missing = [name for name in known if name not in given]
    if missing:
        raise InvalidRequestError(f"input '{missing[0]}' is missing; the model takes {', '.join(known)}.")


def _check_tensor(tensor: Tensor, spec: TensorSpec) -> None:
    _check_datatype(tensor.datatype, spec)
    shape = tensor.array.shape
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, size) for want, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(f"input '{spec.name}' takes shape {list(spec.shape)}, but {list(shape)} came.")


def _check_datatype(came: str, spec: TensorSpec) -> None:
    if came != spec.datatype:
        raise InvalidRequestError(f"input '{spec.name}' takes {spec.datatype}, but {came} came.")


def _check_batch(tensors: Sequence[Tensor], largest: int) -> None:
    batches = sorted({tensor.array.shape[0] for tensor in tensors})
    if len(batches) > 1:
        raise InvalidRequestError(f"all inputs must have the same batch; these have {batches}.")
    if batches and not 1 <= batches[0] <= largest:
        raise InvalidRequestError(f"a batch must be between 1 and {largest}; this one is {batches[0]}.")
