"""Runs code in float64 that was written for float32.

The code sees float32 tensors, as it does in its usual run: their dtype, `torch.finfo` and branches on them are the
same. But each of these tensors holds float64 numbers, and operations compute with those. So constants made in a
forward, states of `x.dtype`, and casts such as `x.float()` need no care of their own.

A cast to float16 or bfloat16 rounds, and what follows computes in that dtype, because the file does so, too: the
rounding belongs to the network, and is not an error of float32. The code's own float64 tensors stay what they are.

Requires: a network whose tensors were converted by `to_float64`, and an input converted by `Float64Tensor.of`.
Ensures: no operation rounds to float32, except for those without a float64 implementation and those that read the bits.
"""

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_any, tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from export.tensors import copied, held_tensors

PRECISE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
SEEN = {precise: seen for seen, precise in PRECISE.items()}
keys = torch._C.DispatchKey
READS_BITS = {torch.ops.aten.view.dtype, torch.ops.aten.nextafter.default}


class Float64Tensor(torch.Tensor):
    """A tensor that code sees as float32 (or complex64), and that holds float64 (or complex128) `numbers`."""

    numbers: torch.Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise TypeError(f"{func} got a tensor of a float64 run that has ended")


class Float64Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """While active, operations on float32 tensors compute in float64, and return tensors that hold float64 numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._converted: MutableMapping[torch.Tensor, Float64Tensor] = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._convert, (args, kwargs or {}))
        seen = _seen_results(func, _compute(func, args, kwargs), args, kwargs)
        if torch.Tag.inplace_view in func.tags:
            # Also changes the shape that the code sees.
            return return_and_correct_aliasing(func, args, kwargs, seen)  # type: ignore[no-untyped-call]
        return seen

    def _convert(self, value: Any) -> Any:
        """Return the float64 tensor of an argument that another library made, always the same one; else `value`."""
        if not _is_float32(value):
            return value
        if value not in self._converted:
            self._converted[value] = seen_as_float32(value)
        return self._converted[value]


def seen_as_float32(value: Any) -> Any:
    """Return a float32 or float64 tensor as one that code sees as float32; any other value as it is."""
    if not isinstance(value, torch.Tensor) or isinstance(value, Float64Tensor) or value.dtype not in (*PRECISE, *SEEN):
        return value
    numbers = value.detach().to(PRECISE.get(value.dtype, value.dtype))
    tensor: Float64Tensor = torch.Tensor._make_wrapper_subclass(
        Float64Tensor,
        numbers.size(),
        strides=numbers.stride(),
        storage_offset=numbers.storage_offset(),
        dtype=SEEN[numbers.dtype],
        layout=numbers.layout,
        device=numbers.device,
    )
    tensor.numbers = numbers
    return tensor


def to_float64(network: nn.Module) -> nn.Module:
    """Return a copy of `network` in which all tensors, also those in plain attributes, hold float64 numbers."""
    return copied(network, {id(tensor): _held(tensor) for _, tensor in held_tensors(network)})


def plain(value: Any) -> Any:
    """Return a result of a float64 run, such as nested tuples of tensors, with plain float64 tensors."""
    return tree_map(lambda item: item.numbers if isinstance(item, Float64Tensor) else item, value)


@contextlib.contextmanager
def float64_arithmetic() -> Iterator[None]:
    """Compute in float64 inside the block; an LSTM must not choose oneDNN's operation, which only knows float32."""
    with _onednn(enabled=False), Float64Mode():
        yield


def _held(tensor: torch.Tensor) -> torch.Tensor:
    held = seen_as_float32(tensor) if _is_float32(tensor) else tensor.detach().clone()
    held._is_param = isinstance(tensor, nn.Parameter)  # read by isinstance(held, nn.Parameter)
    return held


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Call an operation in float64; in float32 if it has no float64 implementation, or reads the bits of float32."""
    if func in READS_BITS:
        return func(*tree_map(_rounded, args), **tree_map(_rounded, kwargs))
    try:
        with _default_dtype(torch.float64), _onednn(enabled=True), _usual_dispatch():
            return func(*tree_map(_precise, args), **tree_map(_precise, kwargs))
    except RuntimeError:
        if func._schema.is_mutable:
            raise
        return func(*tree_map(_rounded, args), **tree_map(_rounded, kwargs))


def _precise(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return PRECISE.get(value, value)
    return value.numbers if isinstance(value, Float64Tensor) else value


def _rounded(value: Any) -> Any:
    return value.numbers.to(value.dtype) if isinstance(value, Float64Tensor) else value


def _seen_results(func: Any, result: Any, args: Any, kwargs: Any) -> Any:
    """Return the results as the code sees them; a tensor that the operation changed in place is the code's own."""
    own = {id(plain(value)): value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}

    def seen(value: Any, usual: Any = None) -> Any:
        if not isinstance(value, torch.Tensor) or id(value) in own:
            return own.get(id(value), value)
        is_float64 = usual is not None and usual.dtype in SEEN
        return seen_as_float32(value) if value.dtype in (*PRECISE, *SEEN) and not is_float64 else value.detach()

    if not tree_any(_is_float64, (args, kwargs)):
        return tree_map(seen, result)
    usual = func(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))  # which results are float64 for the code, too
    return tree_map(seen, result, usual)


def _is_float32(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in PRECISE and not isinstance(value, Float64Tensor)


def _is_float64(value: Any) -> bool:
    """Return whether a dtype or tensor is float64 for the code, too."""
    return value in SEEN if isinstance(value, torch.dtype) else isinstance(value, torch.Tensor) and value.dtype in SEEN


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@contextlib.contextmanager
def _usual_dispatch() -> Iterator[None]:
    """Handle views, versions and conjugates as outside of a dispatch mode, which disables what is before it."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.ADInplaceOrView, keys.Conjugate, keys.Negative, keys.ZeroTensor):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield


@contextlib.contextmanager
def _onednn(*, enabled: bool) -> Iterator[None]:
    usual = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(enabled)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(usual)
