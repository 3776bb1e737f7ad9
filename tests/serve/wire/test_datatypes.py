"""Every datatype of the protocol goes through a server, raw and typed, as stock clients send it."""

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
EACH = [pytest.param(each, id=name) for name, each in datatypes.BY_NAME.items()]


@pytest.fixture(scope="module")
def url(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a model for each datatype, which gives `x` back as `y`."""
    folder = tmp_path_factory.mktemp("datatypes")
    for name, kind in KINDS.items():
        write_identity(folder / name.lower() / "1" / "model.onnx", ("n", 2), kind)
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        yield process.stdout.readline().split()[-1]


def example(datatype: Datatype) -> np.ndarray[Any, Any]:
    """Numbers that each datatype holds exactly, as tritonclient takes them."""
    if datatype is datatypes.BYTES:
        return np.array([[b"", "zürich".encode()]], object)
    if datatype is datatypes.BF16:
        return np.array([[-1.5, 3.0]], ml_dtypes.bfloat16)
    return np.array([[1, 0]]).astype(datatype.numpy)


def test_all_are_tried() -> None:
    """No datatype of the protocol is left out."""
    assert KINDS.keys() == datatypes.BY_NAME.keys()
    assert all(kind in onnx.TensorProto.DataType.values() for kind in KINDS.values())


@pytest.mark.parametrize("datatype", EACH)
def test_raw(url: str, datatype: Datatype) -> None:
    """tritonclient sends an array and gets it back."""
    sent = tritonclient.grpc.InferInput("x", [1, 2], datatype.name)
    sent.set_data_from_numpy(example(datatype))
    with tritonclient.grpc.InferenceServerClient(url) as client:
        answer = client.infer(datatype.name.lower(), [sent])
        assert answer.get_output("y").datatype == datatype.name
        np.testing.assert_array_equal(answer.as_numpy("y"), example(datatype))


@pytest.mark.parametrize("datatype", [each for each in EACH if each.values[0].contents])
def test_typed(url: str, datatype: Datatype) -> None:
    """Typed contents give the same as raw ones."""
    contents = inference.InferTensorContents(**{str(datatype.contents): example(datatype).ravel().tolist()})  # type: ignore[arg-type]
    tensor = inference.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype.name, shape=[1, 2], contents=contents
    )
    method = METHODS["ModelInfer"]
    request = inference.ModelInferRequest(model_name=datatype.name.lower(), inputs=[tensor])
    with grpc.insecure_channel(url) as channel:
        answer = inference.ModelInferResponse.FromString(
            channel.unary_unary(method.path)(request.SerializeToString(), timeout=20)
        )
    with Client(url) as client:
        raw = client.infer(datatype.name.lower(), {"x": example(datatype)})["y"]
    data = answer.raw_output_contents[0]
    assert data == (
        b"".join(len(each).to_bytes(4, "little") + each for each in raw.ravel())
        if datatype is datatypes.BYTES
        else raw.tobytes()
    )


def test_our_client_takes_bfloat16(url: str) -> None:
    """An array of ml_dtypes goes as BF16, and its values come back as float32."""
    with Client(url) as client:
        found = client.infer("bf16", {"x": np.array([[-1.5, 3.0]], ml_dtypes.bfloat16)})["y"]
    assert (found.dtype, found.tolist()) == (np.float32, [[-1.5, 3.0]])
