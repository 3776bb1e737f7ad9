"""Names the output tensors of a network: one tensor, or nested tuples, named tuples, lists and dicts of tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from export.errors import UnsupportedNetworkError

ONLY_OUTPUT = "output"


def named_outputs(network_output: Any) -> dict[str, Tensor]:
    """Return the tensors of `network_output` by name, in order.

    A single tensor is named `output`. Tensors of a dict or a named tuple have the name of their key, those of a tuple
    or list `output_0`, `output_1` and so on; names of nested tensors are joined by a dot.

    Raises: UnsupportedNetworkError.
    """
    leaves = list(_leaves(network_output, ""))
    outputs = {_name(path): tensor for path, tensor in leaves}
    if not outputs:
        raise UnsupportedNetworkError("the network returns no tensor.")
    for name, tensor in outputs.items():
        if tensor.is_complex():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise UnsupportedNetworkError(
                f"the network's '{name}' is {dtype}, but outputs of ONNX models are real: "
                "return torch.view_as_real of it."
            )
    if len(outputs) < len(leaves):
        raise UnsupportedNetworkError(
            f"two outputs of the network would have the same name; it returns {', '.join(path for path, _ in leaves)}."
        )
    return outputs


def _name(path: str) -> str:
    if not path:
        return ONLY_OUTPUT
    return f"{ONLY_OUTPUT}_{path}" if path[0].isdecimal() else path


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, child in _children(value, path):
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _children(value: Any, path: str) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    else:
        where = f" at '{path}'" if path else ""
        raise UnsupportedNetworkError(f"the network must return tensors; it returns {type(value).__name__}{where}.")
