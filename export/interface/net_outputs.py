"""Names for what a network gives: one tensor, or tuples, named tuples, lists and dicts of tensors, in one another."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from export.errors import UnsupportedNetworkError

ONLY = "output"


def named_outputs(given: Any) -> dict[str, Tensor]:
    """Every tensor of `given` by its name, in order.

    The only tensor is `output`; a dict's and a named tuple's bear their keys, a tuple's `output_0` and so on; what is
    nested has both names with a dot in between. Raises: UnsupportedNetworkError.
    """
    found = [(path, tensor) for path, tensor in _leaves(given, "")]
    named = {_name(path): tensor for path, tensor in found}
    if not named:
        raise UnsupportedNetworkError("the network gives no tensor at all.")
    for name, tensor in named.items():
        if tensor.is_complex():
            raise UnsupportedNetworkError(
                f"the network's '{name}' is {str(tensor.dtype).removeprefix('torch.')}; ONNX models give real numbers: "
                "give torch.view_as_real of it."
            )
    if len(named) < len(found):
        raise UnsupportedNetworkError(
            f"two outputs of the network would have one name; it gives {', '.join(p for p, _ in found)}."
        )
    return named


def _name(path: str) -> str:
    if not path:
        return ONLY
    return f"{ONLY}_{path}" if path[0].isdecimal() else path


def _leaves(given: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(given, Tensor):
        yield path, given
        return
    for key, value in _children(given, path):
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _children(given: Any, path: str) -> Iterator[tuple[Any, Any]]:
    if isinstance(given, Mapping):
        yield from given.items()
    elif isinstance(given, tuple) and hasattr(given, "_fields"):
        yield from zip(given._fields, given, strict=True)
    elif isinstance(given, list | tuple):
        yield from enumerate(given)
    else:
        where = f" at '{path}'" if path else ""
        raise UnsupportedNetworkError(f"the network must give tensors; it gives {type(given).__name__}{where}.")
