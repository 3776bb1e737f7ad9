"""Compares a request with what its model takes, before anything is computed."""

from collections import Counter
from collections.abc import Sequence

from serve.errors import InvalidRequestError
from serve.layers import LayerIndex
from serve.model_config import Signature
from serve.tensors import Array, Request, Tensor, TensorSpec


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
    repeated = [name for name, count in Counter(given).items() if count > 1]
    if repeated:
        raise InvalidRequestError(f"input '{repeated[0]}' is given more than once.")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidRequestError(f"there is no input '{unknown[0]}'; the model takes {', '.join(known)}.")
    missing = [name for name in known if name not in given]
    if missing:
        raise InvalidRequestError(f"input '{missing[0]}' is missing; the model takes {', '.join(known)}.")


def _check_tensor(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidRequestError(f"input '{spec.name}' takes {spec.datatype}, but {tensor.datatype} came.")
    shape = tensor.array.shape
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, size) for want, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(f"input '{spec.name}' takes shape {list(spec.shape)}, but {list(shape)} came.")


def _check_batch(tensors: Sequence[Tensor], largest: int) -> None:
    batches = sorted({tensor.array.shape[0] for tensor in tensors})
    if len(batches) > 1:
        raise InvalidRequestError(f"all inputs must have the same batch; these have {batches}.")
    if batches and not 1 <= batches[0] <= largest:
        raise InvalidRequestError(f"a batch must be between 1 and {largest}; this one is {batches[0]}.")
