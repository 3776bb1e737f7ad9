"""Plain requests and responses, and what a model says about its tensors. No protobuf, no gRPC, no onnxruntime."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output. `shape` includes the batch; -1 where the size is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array. `datatype` is the wire's name, such as UINT8; see `serve.datatypes` for BF16 and BYTES."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, eq=False)
class Request:
    """An empty `version` is the newest; no `outputs` are all of them."""

    model: str
    version: str
    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Response:
    """Outputs stand in alphabetical order."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
