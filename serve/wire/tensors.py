"""Plain tensors and requests, independent of protobuf, gRPC and onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """Description of a model's input or output.

    Attributes:
        name: Its name.
        datatype: The protocol's name of the datatype, such as UINT8.
        shape: Its shape with the batch; -1 for a dynamic dimension.
        batch_name: Name of the first dimension in the file; empty if the dimension is fixed or unnamed.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batch_name: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array.

    Attributes:
        name: The input's or output's name.
        datatype: The protocol's name of the datatype, such as UINT8.
        array: The data; see `serve.wire.datatypes` for BF16 and BYTES.
    """

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, eq=False)
class Request:
    """An inference request.

    Attributes:
        model: The model's name.
        version: The model version; empty for the newest.
        id: The client's identifier, repeated in the response.
        inputs: The input tensors.
        outputs: Names of the requested outputs and layers; empty for all outputs.
        classes: Number of top classes to return, by name of a classified output; 0 returns the tensor.
        priority: Priority level, 1 first; 0 is the model's default.
        timeout_us: Longest wait in the queue in microseconds; 0 is the model's default.
    """

    model: str
    version: str
    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    classes: Mapping[str, int] = field(default_factory=dict)
    priority: int = 0
    timeout_us: int = 0
