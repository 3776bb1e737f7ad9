"""Runs a network in PyTorch, in float32 or float64, optionally recording the output of every layer.

Requires: a prepared network, and its arguments in float32.
Ensures: any exception of the network becomes UnsupportedNetworkError with the name of the failing layer; layer names
are unique.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from export.errors import FailedRunError, UnsupportedNetworkError, one_line
from export.tensors import converted, copied, held_tensors
from export.tracing.arguments import Arguments
from export.tracing.float64 import float64_arithmetic, plain, seen_as_float32, to_float64
from export.tracing.source_lines import failing_line, location
from export.tracing.trace import TensorRecord, module_tracker, stream, trace

Consumer = Callable[[TensorRecord], None]  # of a record whose value is valid during the call only; must not raise
Message = Callable[[str, BaseException], str]  # of an error: from a clause with the layer, and the exception
NetworkOutput = Any  # a tensor, or tuples, lists and dicts of them
Layers = Mapping[str, TensorRecord]  # the output of each layer, by layer name, in the order in which the calls return


def fresh_copy(network: nn.Module) -> nn.Module:
    """Return a copy that shares the weights, but not the buffers and attributes, to which a forward may write."""
    return copied(network, {id(weight): weight for weight in network.parameters()})


def cpu_copy(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU, which shares the weights if they are there already."""
    return fresh_copy(network) if _is_on_cpu(network) else deep_cpu_copy(network)


def deep_cpu_copy(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU that shares nothing. Raises: UnsupportedNetworkError if it cannot be copied."""
    if _is_on_cpu(network):
        return copied(network)
    return converted(network, held_tensors(network), lambda tensor: tensor.to("cpu", copy=True))


def _is_on_cpu(network: nn.Module) -> bool:
    return all(tensor.device.type == "cpu" for _, tensor in held_tensors(network))


def run(network: nn.Module, arguments: Arguments) -> NetworkOutput:
    """Run the network without recording layers. Raises: UnsupportedNetworkError."""
    return _translate_errors(network, arguments, _forward, _float32_failure(arguments))


def run_traced(network: nn.Module, arguments: Arguments) -> tuple[NetworkOutput, Layers]:
    """Run the network and record its layers. Raises: UnsupportedNetworkError."""
    return _by_name(_translate_errors(network, arguments, trace, _float32_failure(arguments)))


def run_streamed(network: nn.Module, arguments: Arguments, consume: Consumer) -> NetworkOutput:
    """Run the network, and pass the output of each layer to `consume`. Raises: UnsupportedNetworkError."""
    return _translate_errors(network, arguments, partial(stream, consume=consume), _float32_failure(arguments))


def run_in_float64(network: nn.Module, arguments: Arguments, consume: Consumer = lambda _: None) -> NetworkOutput:
    """Run a copy of the network in float64, and pass the output of each layer to `consume`.

    Raises: UnsupportedNetworkError.
    """
    precise = arguments.cast(torch.float64).map(seen_as_float32)
    forward = partial(_stream_in_float64, consume=consume)
    return _translate_errors(to_float64(network), precise, forward, _float64_failure)


def _stream_in_float64(network: nn.Module, arguments: Arguments, consume: Consumer) -> NetworkOutput:
    with float64_arithmetic():
        return plain(stream(network, arguments, consume))


def _forward(network: nn.Module, arguments: Arguments) -> NetworkOutput:
    return arguments.call(network)


def _float32_failure(arguments: Arguments) -> Message:
    inputs = "an input" if len(arguments.leaves) == 1 else "inputs"
    return lambda layer, error: f"the network fails on {inputs} of {arguments.sizes}{layer}: {one_line(error)}"


def _float64_failure(layer: str, error: BaseException) -> str:
    return (
        f"the network runs in float32 but not in float64{layer}{location('', failing_line(error))}: its forward uses "
        "the memory of a tensor outside of PyTorch, as .numpy() and .data_ptr() do, or an operation of another "
        "library, so its float32 error cannot be measured. Use PyTorch's operations there. PyTorch's error: "
        f"{one_line(error)}"
    )


def _translate_errors(
    network: nn.Module, arguments: Arguments, forward: Callable[[nn.Module, Arguments], Any], message: Message
) -> Any:
    try:
        return forward(network, arguments)
    except (UnsupportedNetworkError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a forward may call sys.exit
        path = _failing_layer(network, arguments, forward)
        layer = f" in its layer '{path}'" if path else ""
        raise FailedRunError(message(layer, error)) from error


def _failing_layer(network: nn.Module, arguments: Arguments, forward: Callable[[nn.Module, Arguments], Any]) -> str:
    """Repeat the failing run and return the path of the module in which it fails."""
    with module_tracker(network) as current_path, contextlib.suppress(Exception, SystemExit):
        forward(network, arguments)
        return ""
    return current_path()


def _by_name(traced: tuple[NetworkOutput, Sequence[TensorRecord]]) -> tuple[NetworkOutput, Layers]:
    output, records = traced
    name, count = Counter(record.name for record in records).most_common(1)[0] if records else ("", 0)
    if count > 1:
        raise UnsupportedNetworkError(
            f"{count} layers would have the name '{name}': rename the module that has '@' or ':' in its name."
        )
    return output, {record.name: record for record in records}
