"""Tests of every datatype through a server, raw and typed, as tritonclient sends it."""

from collections.abc import Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import onnx
import pytest
import tritonclient.grpc
from onnx import TensorProto

from protos import inference
from serve.client.sync import METHODS, Client
from serve.wire import datatypes
from serve.wire.datatypes import Datatype
from tests.serve.conftest import Serve, write_identity

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
DATATYPES = [pytest.param(datatype, id=name) for name, datatype in datatypes.BY_NAME.items()]


@pytest.fixture(scope="module")
def url(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with an identity model for each datatype."""
    folder = tmp_path_factory.mktemp("datatypes")
    for name, kind in KINDS.items():
        write_identity(folder / name.lower() / "1" / "model.onnx", ("n", 2), kind)
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        yield process.stdout.readline().split()[-1]


def example(datatype: Datatype) -> np.ndarray[Any, Any]:
    """Return values that the datatype represents exactly, as tritonclient accepts them."""
    if datatype is datatypes.BYTES:
        return np.array([[b"", "zürich".encode()]], object)
    if datatype is datatypes.BF16:
        return np.array([[-1.5, 3.0]], ml_dtypes.bfloat16)
    return np.array([[1, 0]]).astype(datatype.numpy)


def test_all_datatypes_are_tested() -> None:
    """There is a model for every datatype of the protocol."""
    assert KINDS.keys() == datatypes.BY_NAME.keys()
    assert all(kind in onnx.TensorProto.DataType.values() for kind in KINDS.values())


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw(url: str, datatype: Datatype) -> None:
    """tritonclient receives the array that it sent."""
    tensor = tritonclient.grpc.InferInput("x", [1, 2], datatype.name)
    tensor.set_data_from_numpy(example(datatype))
    with tritonclient.grpc.InferenceServerClient(url) as client:
        result = client.infer(datatype.name.lower(), [tensor])
        assert result.get_output("y").datatype == datatype.name
        np.testing.assert_array_equal(result.as_numpy("y"), example(datatype))


@pytest.mark.parametrize("datatype", [param for param in DATATYPES if param.values[0].contents])
def test_typed(url: str, datatype: Datatype) -> None:
    """Typed contents and raw data have the same output."""
    contents = inference.InferTensorContents(**{str(datatype.contents): example(datatype).ravel().tolist()})  # type: ignore[arg-type]
    tensor = inference.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype.name, shape=[1, 2], contents=contents
    )
    method = METHODS["ModelInfer"]
    request = inference.ModelInferRequest(model_name=datatype.name.lower(), inputs=[tensor])
    with grpc.insecure_channel(url) as channel:
        response = inference.ModelInferResponse.FromString(
            channel.unary_unary(method.path)(request.SerializeToString(), timeout=20)
        )
    with Client(url) as client:
        raw = client.infer(datatype.name.lower(), {"x": example(datatype)})["y"]
    data = response.raw_output_contents[0]
    assert data == (
        b"".join(len(element).to_bytes(4, "little") + element for element in raw.ravel())
        if datatype is datatypes.BYTES
        else raw.tobytes()
    )


def test_our_client_supports_bfloat16(url: str) -> None:
    """An array of ml_dtypes is sent as BF16, and the output is float32 with the same values."""
    with Client(url) as client:
        y = client.infer("bf16", {"x": np.array([[-1.5, 3.0]], ml_dtypes.bfloat16)})["y"]
    assert (y.dtype, y.tolist()) == (np.float32, [[-1.5, 3.0]])
