"""Table of the protocol's datatypes, and their names in config.pbtxt, numpy and onnxruntime.

numpy has no bfloat16: BF16 arrays have one field, `bits`, with the 16 bits of each number, which are the upper half of
a float32. BYTES arrays hold `bytes` objects.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protos import inference


@dataclass(frozen=True)
class Datatype:
    """One datatype.

    Attributes:
        name: The protocol's name, such as UINT8.
        config: The value in config.pbtxt.
        numpy: The dtype of arrays, little-endian.
        onnx: onnxruntime's name.
        contents: The list of `InferTensorContents` for its elements; None if it can only be sent raw.
    """

    name: str
    config: inference.DataType
    numpy: np.dtype[Any]
    onnx: str
    contents: str | None


BF16 = Datatype("BF16", inference.TYPE_BF16, np.dtype([("bits", "<u2")]), "tensor(bfloat16)", None)
BYTES = Datatype("BYTES", inference.TYPE_STRING, np.dtype(object), "tensor(string)", "bytes_contents")
_ALL = (
    Datatype("BOOL", inference.TYPE_BOOL, np.dtype(bool), "tensor(bool)", "bool_contents"),
    Datatype("UINT8", inference.TYPE_UINT8, np.dtype("<u1"), "tensor(uint8)", "uint_contents"),
    Datatype("UINT16", inference.TYPE_UINT16, np.dtype("<u2"), "tensor(uint16)", "uint_contents"),
    Datatype("UINT32", inference.TYPE_UINT32, np.dtype("<u4"), "tensor(uint32)", "uint_contents"),
    Datatype("UINT64", inference.TYPE_UINT64, np.dtype("<u8"), "tensor(uint64)", "uint64_contents"),
    Datatype("INT8", inference.TYPE_INT8, np.dtype("<i1"), "tensor(int8)", "int_contents"),
    Datatype("INT16", inference.TYPE_INT16, np.dtype("<i2"), "tensor(int16)", "int_contents"),
    Datatype("INT32", inference.TYPE_INT32, np.dtype("<i4"), "tensor(int32)", "int_contents"),
    Datatype("INT64", inference.TYPE_INT64, np.dtype("<i8"), "tensor(int64)", "int64_contents"),
    Datatype("FP16", inference.TYPE_FP16, np.dtype("<f2"), "tensor(float16)", None),
    Datatype("FP32", inference.TYPE_FP32, np.dtype("<f4"), "tensor(float)", "fp32_contents"),
    Datatype("FP64", inference.TYPE_FP64, np.dtype("<f8"), "tensor(double)", "fp64_contents"),
    BF16,
    BYTES,
)
BY_NAME = {datatype.name: datatype for datatype in _ALL}
BY_CONFIG = {int(datatype.config): datatype for datatype in _ALL}
BY_ONNX = {datatype.onnx: datatype for datatype in _ALL}
BY_NUMPY = {datatype.numpy: datatype for datatype in _ALL}


def float32_from_bf16(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return a BF16 array as float32, without loss."""
    return (array["bits"].astype(np.uint32) << 16).view(np.float32)
