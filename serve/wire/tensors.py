"""Plain tensors, requests and responses, independent of protobuf, gRPC and onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """Description of a model's input or output.

    Attributes:
        name: its name.
        datatype: the protocol's name of the datatype, such as UINT8.
        shape: its shape with the batch; -1 for a dynamic dimension.
        batch_name: the file's name of the first dimension; empty if that is fixed or has no name.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batch_name: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array.

    Attributes:
        name: the input's or output's name.
        datatype: the protocol's name of the datatype, such as UINT8.
        array: the data; see `serve.wire.datatypes` for BF16 and BYTES.
    """

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, eq=False)
class Request:
    """An inference request.

    Attributes:
        model: the model's name.
        version: the version's number; empty for the newest.
        id: the client's identifier, repeated in the response.
        inputs: the input tensors.
        outputs: names of the requested outputs and layers; empty for all outputs.
        classes: for outputs to be classified, how many of the highest classes to return, by name; 0 returns the tensor.
        priority: priority level, 1 first; 0 is the model's default.
        timeout_us: longest wait in the queue in microseconds; 0 is the model's default.
    """

    model: str
    version: str
    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    classes: Mapping[str, int] = field(default_factory=dict)
    priority: int = 0
    timeout_us: int = 0


@dataclass(frozen=True, eq=False)
class Response:
    """An inference response.

    Attributes:
        model: the model's name.
        version: number of the version that ran.
        id: the request's identifier.
        outputs: the output tensors, in alphabetical order.
    """

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
