"""The client, against a real server."""

import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from serve import errors
from serve.client import sync as client_module
from serve.client.aio import AsyncClient
from serve.client.preprocessing import Preprocessing
from serve.client.sync import Client
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
from serve.frontends.grpc.server import STATUS
from serve.wire.datatypes import BF16
from serve.wire.tensors import TensorSpec
from tests.serve.conftest import LABELS


def test_status(client: Client) -> None:
    """A server that runs is live and ready."""
    assert (client.live(), client.ready()) == (True, True)


def test_model(client: Client) -> None:
    """What a model takes and gives, and what its export wrote for clients."""
    info = client.model("images")
    assert (info.name, info.version, info.max_batch_size, list(info.labels)) == ("images", "1", 3, LABELS)
    assert info.inputs == (TensorSpec("image", "UINT8", (-1, 2, 2, 1)),)
    assert info.preprocessing == Preprocessing(channels=1, height=2, width=2, interpolation="nearest")


def test_model_of_others(client: Client) -> None:
    """A model that no export of ours wrote has neither labels nor a rule; its newest version is the largest number."""
    info = client.model("versions")
    assert (info.version, info.labels, info.preprocessing) == ("10", (), None)


def test_infer(client: Client) -> None:
    """Arrays in, arrays out, by name."""
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[1, 1, 1]], ">f4")
    answers = client.infer("arithmetic", {"a": a, "b": b})
    assert {name: array.tolist() for name, array in answers.items()} == {"sum": [[2, 3, 4]], "difference": [[0, 1, 2]]}
    assert list(client.infer("arithmetic", {"a": a, "b": b}, ["sum"])) == ["sum"]


def test_infer_text(client: Client) -> None:
    """Text goes as UTF-8 and comes back as bytes."""
    assert client.infer("text", {"x": [["é", "b"]]})["y"].tolist() == [["é".encode(), b"b"]]


def test_infer_a_version(client: Client) -> None:
    """A version may be named."""
    assert client.infer("versions", {"x": np.zeros((1, 2), np.float32)}, version="2")["y"].shape == (1, 2)


def test_unknown_model(client: Client) -> None:
    """An unknown model is an error of its own."""
    with pytest.raises(NoSuchModelError, match="NOT_FOUND: there is no model 'nothing'"):
        client.model("nothing")


def test_refused(client: Client) -> None:
    """A refusal carries the server's words."""
    with pytest.raises(RefusedError, match=r"takes shape \[-1, 3\], but \[1, 4\] came"):
        client.infer("bare", {"x": np.zeros((1, 4), np.float32)})


def test_array_without_a_datatype(client: Client) -> None:
    """What numpy has and the protocol lacks is refused here."""
    with pytest.raises(RefusedError, match="complex128 has no place in the protocol"):
        client.infer("bare", {"x": np.zeros((1, 3), complex)})


def test_failed(client: Client) -> None:
    """A server that fails at a request is told apart from one that refuses it."""
    with pytest.raises(ServerFailedError, match="INTERNAL"):
        client.infer("picky", {"x": np.arange(3), "shape": np.array([7])})


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_an_address_of_the_web(client: type) -> None:
    """A scheme that gRPC does not know is said to be one, with what to give."""
    with pytest.raises(SettingsError, match=r"begins with http://: give HOST:PORT alone, 127\.0\.0\.1:8001\.$"):
        client("http://127.0.0.1:8001/")


def test_no_server() -> None:
    """Nobody there: the error says where."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, timeout_s=10) as client, pytest.raises(UnreachableError, match=f"no server answers at {url}"):
            client.live()


def test_silent_server() -> None:
    """A server that takes the connection and says nothing is not waited for longer than was said."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"127.0.0.1:{mute.getsockname()[1]}"
        with Client(url, timeout_s=0.3) as client, pytest.raises((TimedOutError, UnreachableError), match=url):
            client.live()


def test_bfloat16_becomes_float32() -> None:
    """A BF16 output comes as the float32 of the same value."""
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16).view(BF16.numpy)
    tensor = client_module.Tensor("x", "BF16", bits)
    assert client_module._plain(tensor).tolist() == [1.0, -2.0, float("inf")]


def test_every_status_has_an_error() -> None:
    """Each leaf of the server's request errors has a status, and each such status an error of the client."""
    leaves = {error for error in vars(errors).values() if isinstance(error, type) and RequestError in error.__bases__}
    assert set(STATUS) == leaves
    assert set(STATUS.values()) - {grpc.StatusCode.INTERNAL} <= set(client_module.ERRORS)
    assert all(issubclass(error, ClientError) for error in client_module.ERRORS.values())


@pytest.mark.parametrize("order", [("serve.client", "tritonclient.grpc"), ("tritonclient.grpc", "serve.client")])
def test_shares_a_process_with_tritonclient(order: tuple[str, str], url: str) -> None:
    """Both clients ask the same server from one process, whichever was imported first."""
    program = f"""
import {order[0]}, {order[1]}
with serve.client.Client("{url}") as ours, tritonclient.grpc.InferenceServerClient("{url}") as theirs:
    assert ours.live() and theirs.is_server_live()
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=Path.cwd(), capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_imports_no_server() -> None:
    """The client needs neither onnxruntime nor the server's part of gRPC's extras."""
    program = (
        "import sys, serve.client; print({'onnxruntime', 'onnx', 'grpc_health.v1.health', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout == "set()\n"
