"""Runs a network in PyTorch and writes down what every called module took and gave.

Ensures: values are copies, taken before an in-place operation can overwrite them; a tensor is known again by where it
lies, its shape and its version, so that a module which only hands its input on can be told from one that computes.
"""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.names import layer_name

Identity = tuple[int, tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor that one call of one module gave.

    `parent` is the path of the module that made the call. `inputs` and `identity` tell tensors apart.
    """

    path: str
    call: int
    element: int
    kind: str
    parent: str
    value: npt.NDArray[Any]
    identity: Identity
    inputs: frozenset[Identity]

    @property
    def name(self) -> str:
        """What a client asks for."""
        return layer_name(self.path, self.call, self.element)

    @property
    def is_passthrough(self) -> bool:
        """Whether the module gave one of its inputs back, untouched."""
        return self.identity in self.inputs


def traced(network: nn.Module, x: torch.Tensor) -> tuple[Any, list[Output]]:
    """Return what `network` gives, and an entry for each tensor that each module call gave, in order of the calls' ends."""
    recorder = _Recorder()
    handles = [handle for path, module in network.named_modules() for handle in recorder.attach(path, module)]
    try:
        with torch.no_grad():
            given = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return given, recorder.outputs


@contextlib.contextmanager
def inside(network: nn.Module) -> Iterator[Callable[[], str]]:
    """Give a function that says in which module `network` just is: after an exception, where that was raised."""
    stack: list[str] = []

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: stack.append(path)

    def leave(*_: Any) -> None:
        stack.pop()

    handles = [module.register_forward_pre_hook(enter(path)) for path, module in network.named_modules()]
    handles += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        yield lambda: stack[-1] if stack else ""
    finally:
        for handle in handles:
            handle.remove()


def shapes(network: nn.Module, x: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Return the name and the shape of each tensor that each module call gives; `x` may be on the meta device."""
    found: list[tuple[str, tuple[int, ...]]] = []
    calls: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)

    def hook(path: str) -> Callable[..., None]:
        def record(_module: nn.Module, _args: Any, result: Any) -> None:
            call = next(calls[path])
            found.extend(
                (layer_name(path, call, element), tuple(tensor.shape))
                for element, tensor in enumerate(_tensors(result))
            )

        return record

    handles = [module.register_forward_hook(hook(path)) for path, module in network.named_modules()]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Recorder:
    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self._alive: list[torch.Tensor] = []  # a freed tensor's place in memory would be used again
        self._copies: dict[Identity, npt.NDArray[Any]] = {}  # a block gives what its last layer gave
        self._calls: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
        self._stack: list[str] = []
        self._inputs: list[frozenset[Identity]] = []

    def attach(self, path: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(self._before(path), with_kwargs=True),
            module.register_forward_hook(self._after(path)),
        ]

    def _before(self, path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(path)
            self._inputs.append(frozenset(_identity(tensor) for tensor in _tensors((args, kwargs))))

        return hook

    def _after(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, result: Any) -> None:
            self._stack.pop()
            inputs = self._inputs.pop()
            parent = self._stack[-1] if self._stack else ""
            call = next(self._calls[path])
            for element, tensor in enumerate(_tensors(result)):
                self._alive.append(tensor)
                kind, identity = type(module).__name__, _identity(tensor)
                if identity not in self._copies:
                    self._copies[identity] = _array(tensor.detach().clone().cpu())
                value = self._copies[identity]
                self.outputs.append(Output(path, call, element, kind, parent, value, identity, inputs))

        return hook


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The tensor's numbers; numpy has no bfloat16, all of which float32 has."""
    return np.asarray(tensor.float() if tensor.dtype == torch.bfloat16 else tensor)


def _identity(tensor: torch.Tensor) -> Identity:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor._version


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        yield from _tensors(list(result.values()))
    elif isinstance(result, list | tuple):
        for item in result:
            yield from _tensors(item)


def as_float64(value: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return `value` in double precision, for comparing."""
    return np.asarray(value, np.float64)
