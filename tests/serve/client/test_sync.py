"""The synchronous client, with a real server."""

import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from serve import errors
from serve.client import AsyncClient, Client
from serve.client.messages import array_from_tensor
from serve.client.preprocessing import Preprocessing
from serve.client.rpc import ERROR_BY_STATUS
from serve.errors import (
    ClientError,
    NoSuchModelError,
    RefusedError,
    RequestError,
    ServerFailedError,
    SettingsError,
    TimedOutError,
    UnreachableError,
)
from serve.frontends.status import STATUS
from serve.wire.datatypes import BF16
from serve.wire.tensors import Tensor, TensorSpec
from tests.serve.conftest import LABELS


def test_status(client: Client) -> None:
    """A running server is live and ready."""
    assert (client.live(), client.ready()) == (True, True)


def test_model(client: Client) -> None:
    """Model information has the inputs, the labels and the preprocessing."""
    info = client.model("images")
    assert (info.name, info.version, info.max_batch_size, list(info.labels)) == ("images", "1", 3, LABELS)
    assert info.inputs == (TensorSpec("image", "UINT8", (-1, 2, 2, 1)),)
    assert info.preprocessing == Preprocessing(channels=1, height=2, width=2, interpolation="nearest")


def test_model_without_parameters(client: Client) -> None:
    """A model without parameters has no labels and no preprocessing; its newest version is the largest number."""
    info = client.model("versions")
    assert (info.version, info.labels, info.preprocessing) == ("10", (), None)


def test_infer(client: Client) -> None:
    """Inputs and outputs are arrays by name, and outputs can be selected."""
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[1, 1, 1]], ">f4")
    outputs = client.infer("arithmetic", {"a": a, "b": b})
    assert {name: array.tolist() for name, array in outputs.items()} == {"sum": [[2, 3, 4]], "difference": [[0, 1, 2]]}
    assert list(client.infer("arithmetic", {"a": a, "b": b}, ["sum"])) == ["sum"]


def test_infer_text(client: Client) -> None:
    """Text is sent as UTF-8 and returned as bytes."""
    assert client.infer("text", {"x": [["é", "b"]]})["y"].tolist() == [["é".encode(), b"b"]]


def test_infer_a_version(client: Client) -> None:
    """A version can be selected."""
    assert client.infer("versions", {"x": np.zeros((1, 2), np.float32)}, version="2")["y"].shape == (1, 2)


def test_unknown_model(client: Client) -> None:
    """An unknown model raises NoSuchModelError."""
    with pytest.raises(NoSuchModelError, match="NOT_FOUND: there is no model 'nothing'"):
        client.model("nothing")


def test_rejected_request(client: Client) -> None:
    """The error of a rejected request has the server's message."""
    with pytest.raises(RefusedError, match=r"expects shape \[-1, 3\]; got \[1, 4\]"):
        client.infer("bare", {"x": np.zeros((1, 4), np.float32)})


def test_array_without_a_datatype(client: Client) -> None:
    """The client rejects a numpy dtype that the protocol lacks."""
    with pytest.raises(RefusedError, match="the protocol has no datatype for numpy's complex128"):
        client.infer("bare", {"x": np.zeros((1, 3), complex)})


def test_inputs_without_names(client: Client) -> None:
    """An array without the name of its input is refused."""
    with pytest.raises(RefusedError, match="inputs are a dict of arrays by input name; got ndarray"):
        client.infer("bare", np.zeros((1, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[5, 3]], object), r"element 5 \(int\), but only str and bytes can be sent as BYTES: pass numbers"),
        (np.array([[True, False]], object), r"element True \(bool\)"),
        (np.array([["a", None]], object), r"element None \(NoneType\)"),
        (np.array([[5.5, "a"]], object), r"element 5\.5 \(float\)"),
        (np.array([["a", bytearray(b"b")]], object), r"element bytearray\(b'b'\) \(bytearray\)"),
        (np.array([["\udc80", "a"]]), "which UTF-8 cannot encode"),
        ([["a", "b"], ["c"]], "input 'x' cannot be converted to a numpy array: .*inhomogeneous"),
        ({"a": [[1.0]], "b": [[2.0]]}, "input 'x' is a dict: pass an array for each input, named such as 'x.a', 'x.b'"),
        (np.array([[{"key": "v" * 500}, "a"]], object), r"element \{'key': 'v{71}\.\.\. \(dict\)"),
        (np.array([["2026-11-28", "2026-11-29"]], "datetime64[D]"), r"no datatype for numpy's datetime64\[D\]"),
    ],
)
def test_elements_that_cannot_be_sent(client: Client, values: npt.ArrayLike, message: str) -> None:
    """No element is changed silently: what is neither text nor bytes is refused with its value and type."""
    with pytest.raises(RefusedError, match=message):
        client.infer("text", {"x": values})


@pytest.mark.parametrize(
    "values",
    [
        np.array([["é", b"b"]], object),
        np.array([["é", "b"]], "U1"),
        np.array([["é", "b"]], np.dtypes.StringDType()),
        np.array([["é".encode(), b"b"]]),
        np.array([[np.str_("é"), np.bytes_(b"b")]], object),
    ],
)
def test_arrays_of_text(client: Client, values: npt.ArrayLike) -> None:
    """Every kind of text array that numpy has is sent as BYTES."""
    assert client.infer("text", {"x": values})["y"].tolist() == [["é".encode(), b"b"]]


def test_failed_inference(client: Client) -> None:
    """A failed inference raises another error than a rejected request."""
    with pytest.raises(ServerFailedError, match="INTERNAL"):
        client.infer("picky", {"x": np.arange(3), "shape": np.array([7])})


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_url_with_a_scheme(client: type) -> None:
    """An address with a scheme is rejected, and the error has the corrected address."""
    with pytest.raises(SettingsError, match=r"begins with http://: pass only HOST:PORT, 127\.0\.0\.1:8001\.$"):
        client("http://127.0.0.1:8001/")


def test_no_server() -> None:
    """The error of an unreachable server has its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Client(url, timeout_s=10) as client,
            pytest.raises(UnreachableError, match=f"cannot reach a server at {url}"),
        ):
            client.live()


def test_silent_server() -> None:
    """A call to a server that accepts the connection but never responds fails after `timeout_s`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.3) as client, pytest.raises((TimedOutError, UnreachableError), match=url):
            client.live()


def test_bfloat16_becomes_float32() -> None:
    """A BF16 output is converted to float32 without loss."""
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16).view(BF16.numpy)
    tensor = Tensor("x", "BF16", bits)
    assert array_from_tensor(tensor).tolist() == [1.0, -2.0, float("inf")]


def test_every_status_has_an_error() -> None:
    """Each request error of the server has a gRPC status, and each of these has a client error."""
    leaves = {error for error in vars(errors).values() if isinstance(error, type) and RequestError in error.__bases__}
    assert set(STATUS) == leaves
    assert set(STATUS.values()) - {grpc.StatusCode.INTERNAL} <= set(ERROR_BY_STATUS)
    assert all(issubclass(error, ClientError) for error in ERROR_BY_STATUS.values())


@pytest.mark.parametrize("order", [("serve.client", "tritonclient.grpc"), ("tritonclient.grpc", "serve.client")])
def test_shares_a_process_with_tritonclient(order: tuple[str, str], url: str) -> None:
    """Both clients work in one process, whichever is imported first."""
    program = f"""
import {order[0]}, {order[1]}
with serve.client.Client("{url}") as ours, tritonclient.grpc.InferenceServerClient("{url}") as theirs:
    assert ours.live() and theirs.is_server_live()
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=Path.cwd(), capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_imports_no_server() -> None:
    """Importing the client imports neither onnxruntime nor the gRPC packages of the server, and no asyncio client."""
    unwanted = {"onnxruntime", "onnx", "grpc_health.v1.health", "PIL", "serve.client.aio"}
    program = f"import sys, serve.client; print({unwanted} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout == "set()\n"


def test_unknown_attribute() -> None:
    """The lazy import of AsyncClient does not hide a misspelt name."""
    with pytest.raises(ImportError, match="cannot import name 'Clyent'"):
        exec("from serve.client import Clyent")
