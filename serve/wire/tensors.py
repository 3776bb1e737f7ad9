"""Plain requests and responses, and what a model says about its tensors. No protobuf, no gRPC, no onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output. `shape` includes the batch; -1 where the size is free.

    `first` is what the file calls the first dimension, where that is free and has a name.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    first: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array. `datatype` is the wire's name, such as UINT8; see `serve.wire.datatypes` for BF16 and BYTES."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, eq=False)
class Request:
    """An empty `version` is the newest; no `outputs` are all of them.

    `classes` says of which outputs only so many best classes are wanted, in words. `priority` 1 goes first; 0 leaves
    it to the model. `timeout_us` is how long the request may wait in line; 0 leaves it to the model.
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
    """Outputs stand in alphabetical order."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
