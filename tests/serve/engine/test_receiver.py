"""Tests of the receiver: calls of any form get the response that their message asks for."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos import inference
from serve.batching.statistics import Reason
from serve.engine import receiver
from serve.engine.call import Call
from serve.engine.engine import Engine
from serve.errors import InvalidRequestError, UnavailableError, UnknownModelError
from serve.settings import ServerSettings
from serve.wire import codec
from tests.serve.conftest import write_identity

TIMEOUT_S = 10
ONES = np.ones((1, 3), np.float32)


class RecordedCall(Call):
    """A call that records its response or error, and that it is completed once."""

    __slots__ = ("_done", "error", "response")

    def __init__(self, message: inference.ModelInferRequest) -> None:
        super().__init__(message.SerializeToString())
        self._done = threading.Event()

    def respond(self, response: bytes) -> None:
        assert not self._done.is_set()
        self.response = inference.ModelInferResponse.FromString(response)
        self._done.set()

    def fail(self, error: Exception) -> None:
        assert not self._done.is_set()
        self.error = error
        self._done.set()

    def result(self) -> inference.ModelInferResponse:
        assert self._done.wait(TIMEOUT_S)
        if hasattr(self, "error"):
            raise self.error
        return self.response

    def value(self) -> np.ndarray[Any, Any]:
        result = self.result()
        return np.frombuffer(result.raw_output_contents[0], np.float32).reshape(result.outputs[0].shape)


def message(x: np.ndarray[Any, Any] = ONES, model: str = "model", **fields: str) -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return request


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine that serves `model`, which returns its input of any size."""
    write_identity(tmp_path / "model" / "1" / "model.onnx", ("n", "m"))
    settings = ServerSettings(models=tmp_path, provider="cpu", model_control="explicit", load_models=("model",))
    engine = Engine(settings, lambda _name, _ready: None)
    engine.manager.start()
    yield engine
    assert engine.close(TIMEOUT_S)


def accept(engine: Engine, *messages: inference.ModelInferRequest) -> list[RecordedCall]:
    calls = [RecordedCall(message) for message in messages]
    engine.receiver.accept(calls)
    return calls


def test_repeated_headers(engine: Engine) -> None:
    """Messages with a known header are run by their plan, each with its own id and data."""
    for index in range(4):
        (call,) = accept(engine, message(ONES * index, id=f"request {index}"))
        assert call.value().tolist() == [[index] * 3]
        assert call.result().id == f"request {index}"
    assert len(engine.receiver._plans) == 1


def test_calls_of_one_moment(engine: Engine) -> None:
    """Valid and invalid calls that arrive together each get their own result."""
    wrong = message()
    wrong.raw_input_contents[0] = b"short"
    for _ in range(2):  # the second time by a plan
        good, unknown, bad, empty, last = accept(
            engine, message(), message(model="nothing"), wrong, inference.ModelInferRequest(), message(ONES * 2)
        )
        assert (good.value().tolist(), last.value().tolist()) == ([[1, 1, 1]], [[2, 2, 2]])
        for call, error in ((unknown, UnknownModelError), (bad, InvalidRequestError), (empty, UnknownModelError)):
            with pytest.raises(error):
                call.result()


def test_unaligned_data(engine: Engine) -> None:
    """Tensors at any position in the message have the right values."""
    for length in range(8):
        (call,) = accept(engine, message(ONES * 7, id="i" * length))
        assert call.value().tolist() == [[7, 7, 7]]


@pytest.mark.parametrize("typed", [True, False])
def test_large_messages(engine: Engine, typed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that take long to parse are parsed in another thread, whatever their form; small ones are not."""
    threads: list[str] = []
    parse = codec.request_from_message

    def recorded(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return parse(*arguments)

    monkeypatch.setattr(codec, "request_from_message", recorded)
    accept(engine, message())[0].result()
    assert threads == [threading.current_thread().name]
    x = np.arange(2.0**17, dtype=np.float32)[None]
    request = message(x)
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.fp32_contents.extend(x[0].tolist())
    for _ in range(2):
        (call,) = accept(engine, request)
        np.testing.assert_array_equal(call.value(), x)
    assert all(name.startswith("conversion") for name in threads[1:])
    assert len(threads) == (3 if typed else 2)  # the second raw message has a plan


def test_garbage(engine: Engine) -> None:
    """Bytes that are no message fail without affecting the other calls."""
    good, garbage = RecordedCall(message()), RecordedCall(message())
    garbage.data = b"\xff" * 40
    engine.receiver.accept([garbage, good])
    assert good.value().tolist() == [[1, 1, 1]]
    with pytest.raises(Exception, match="parsing"):
        garbage.result()


def test_plans_are_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that varies its headers does not fill the memory."""
    monkeypatch.setattr(receiver, "MAX_PLANS", 4)
    for width in range(1, 12):
        (call,) = accept(engine, message(np.ones((1, width), np.float32)))
        assert call.value().shape == (1, width)
    assert len(engine.receiver._plans) <= 4


def test_another_version(engine: Engine, tmp_path: Path) -> None:
    """After a reload, a message with a known header runs on the new version; after unloading, it is refused."""
    accept(engine, message())[0].result()
    write_identity(tmp_path / "model" / "2" / "model.onnx", ("n", "m"))
    engine.manager.load("model")
    assert not engine.receiver._plans  # nothing keeps the replaced version alive
    assert accept(engine, message())[0].result().model_version == "2"
    engine.manager.unload("model")
    with pytest.raises(UnavailableError):
        accept(engine, message())[0].result()


def test_no_request_is_lost_while_versions_change(engine: Engine, tmp_path: Path) -> None:
    """Calls that arrive while a model is reloaded again and again all succeed."""
    stop, errors = threading.Event(), []

    def send() -> None:
        while not stop.is_set():
            try:
                accept(engine, message())[0].result()
            except Exception as error:  # noqa: BLE001  any error is the test's result
                errors.append(error)

    senders = [threading.Thread(target=send) for _ in range(3)]
    for sender in senders:
        sender.start()
    for version in range(2, 8):
        write_identity(tmp_path / "model" / str(version) / "model.onnx", ("n", "m"))
        engine.manager.load("model")
    stop.set()
    for sender in senders:
        sender.join()
    assert not errors


def test_cancelled_before_it_is_queued(engine: Engine) -> None:
    """A call whose client is gone before it is queued gets no response, and others run."""
    gone, other = RecordedCall(message()), RecordedCall(message())
    gone.cancel()
    engine.receiver.accept([gone, other])
    assert other.value().tolist() == [[1, 1, 1]]
    assert not gone._done.is_set()
    statistics = engine.registry.model("model").statistics
    assert (statistics.inferences, statistics.failures) == (1, {Reason.CANCELED: 1})


def test_a_model_that_was_just_replaced(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that found a version just before it was closed runs on the version that replaced it."""
    replaced, serving = engine.registry.model("model"), engine.registry.serving
    write_identity(tmp_path / "model" / "2" / "model.onnx", ("n", "m"))
    engine.manager.load("model")
    assert replaced.close(TIMEOUT_S)
    found = iter([replaced])
    monkeypatch.setattr(engine.registry, "serving", lambda *name: next(found, None) or serving(*name))
    assert accept(engine, message())[0].result().model_version == "2"


def test_stopping(engine: Engine) -> None:
    """Once the server stops, calls are refused, also those with a known header."""
    accept(engine, message())[0].result()
    engine.registry.stop()
    with pytest.raises(UnavailableError, match="stopping"):
        accept(engine, message())[0].result()
