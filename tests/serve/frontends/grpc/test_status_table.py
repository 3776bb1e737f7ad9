"""Table of the statuses that Triton's clients rely on; `test_protocol.py` tests the messages."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from protos import inference
from serve.client.sync import METHODS
from tests.serve.conftest import Serve, write_busy, write_identity

OK, UNAVAILABLE, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
Infer = inference.ModelInferRequest
Tensor, Contents = Infer.InferInputTensor, inference.InferTensorContents
BUSY = 3000  # matrix products: a second or more
QUEUE_OF_ONE = """max_batch_size: 2 dynamic_batching { preferred_batch_size: 1
  default_queue_policy { max_queue_size: 1 default_timeout_microseconds: 100000 } }"""


def good(**changes: Any) -> Infer:
    """Return a valid request, with changes of its model, its version, or a field of its tensor."""
    request = {key: changes.pop(key) for key in ("model_name", "model_version") if key in changes}
    values = {"name": "x", "datatype": "FP32", "shape": [1, 3], "contents": Contents(fp32_contents=[1, 2, 3])}
    return Infer(**{"model_name": "m", "inputs": [Tensor(**{**values, **changes})], **request})


def raw(data: bytes, **changes: Any) -> Infer:
    message = good(contents=None, **changes)
    message.raw_input_contents.append(data)
    return message


def with_inputs(*names: str) -> Infer:
    return Infer(model_name="m", inputs=[good(name=name).inputs[0] for name in names])


def both_raw_and_typed() -> Infer:
    message = good()
    message.raw_input_contents.append(bytes(12))
    return message


def with_output(name: str, **parameters: inference.InferParameter) -> Infer:
    message = good()
    message.outputs.add(name=name, parameters=parameters)
    return message


def with_parameter(name: str, **value: Any) -> Infer:
    message = good()
    message.parameters[name].CopyFrom(inference.InferParameter(**value))
    return message


REGION = inference.InferParameter(string_param="nowhere")
TABLE: Mapping[str, tuple[Message | bytes, grpc.StatusCode]] = {
    "a good request": (good(), OK),
    "unknown model": (good(model_name="nothing"), NOT_FOUND),
    "unknown version": (good(model_version="7"), NOT_FOUND),
    "version not a number": (good(model_version="one"), INVALID),
    "negative version": (good(model_version="-1"), INVALID),
    "wrong datatype": (raw(bytes(24), datatype="FP64"), INVALID),
    "unknown datatype": (raw(bytes(12), datatype="FP33"), INVALID),
    "wrong shape": (raw(bytes(16), shape=[1, 4]), INVALID),
    "wrong rank": (raw(bytes(12), shape=[3]), INVALID),
    "batch over the maximum": (raw(bytes(60), shape=[5, 3]), INVALID),
    "batch of 0": (raw(b"", shape=[0, 3]), INVALID),
    "negative batch": (raw(bytes(12), shape=[-1, 3]), INVALID),
    "wrong byte size": (raw(bytes(11)), INVALID),
    "missing input": (with_inputs(), INVALID),
    "extra input": (with_inputs("x", "z"), INVALID),
    "repeated input": (with_inputs("x", "x"), INVALID),
    "raw and typed contents mixed": (both_raw_and_typed(), INVALID),
    "no data": (good(contents=None), INVALID),
    "unknown requested output": (with_output("z"), INVALID),
    "wrong parameter type": (with_parameter("priority", string_param="1"), INVALID),
    "unknown shared-memory region": (with_output("y", shared_memory_region=REGION), NOT_FOUND),
    "empty request": (Infer(), NOT_FOUND),
    "garbage bytes": (b"\xff\xff\xff", INTERNAL),
    "message over the limit": (raw(bytes(65 * 2**20)), EXHAUSTED),
}


@pytest.fixture(scope="module")
def start(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """A function that starts a server of a fast model and of a slow one, whose queue holds one request for 0.1 s."""
    folder = tmp_path_factory.mktemp("table")
    write_identity(folder / "m" / "1" / "model.onnx")
    write_busy(folder / "busy", QUEUE_OF_ONE)
    return lambda: serve(folder, "--grpc-port", 0, "--provider", "cpu")


@pytest.fixture(scope="module")
def channel(start: Callable[[], Any]) -> Iterator[grpc.Channel]:
    """A channel to such a server."""
    with start() as process, grpc.insecure_channel(process.stdout.readline().split()[-1]) as channel:
        yield channel


def begin(channel: grpc.Channel, request: Message | bytes, method: str = "ModelInfer") -> Any:
    """Send a request without waiting for its response."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    call = channel.unary_unary(METHODS[method].path).future(data, timeout=30)
    time.sleep(0.03)
    return call


def busy(times: int) -> Infer:
    tensor = Tensor(name="x", datatype="INT64", shape=[1, 1], contents=Contents(int64_contents=[times]))
    return Infer(model_name="busy", inputs=[tensor])


def executions(channel: grpc.Channel, model: str) -> int:
    data = begin(channel, inference.ModelStatisticsRequest(name=model), "ModelStatistics").result()
    return inference.ModelStatisticsResponse.FromString(data).model_stats[0].execution_count


@pytest.mark.parametrize(("request_", "status"), TABLE.values(), ids=TABLE)
def test_each_row(channel: grpc.Channel, request_: Message | bytes, status: grpc.StatusCode) -> None:
    """Each case has Triton's status, and each error has details."""
    call = begin(channel, request_)
    assert call.code() == status
    assert (call.details() == "") == (status == OK)


def test_an_unknown_model_is_not_ready(channel: grpc.Channel) -> None:
    """ModelReady of an unknown model is OK, and its response is false."""
    data = begin(channel, inference.ModelReadyRequest(name="nothing"), "ModelReady").result()
    assert not inference.ModelReadyResponse.FromString(data).ready


def test_the_queue(channel: grpc.Channel) -> None:
    """A full queue and an expired wait are UNAVAILABLE, and neither request is computed."""
    before = executions(channel, "busy")
    running, expired, full = [begin(channel, busy(times)) for times in (BUSY, 1, 2)]
    assert [full.code(), expired.code()] == [UNAVAILABLE, UNAVAILABLE]
    assert not running.done()
    assert running.code() == OK
    assert executions(channel, "busy") - before == 1


def test_a_cancelled_request_is_never_computed(channel: grpc.Channel) -> None:
    """A request that is cancelled in the queue is not computed, and makes room for another."""
    before = executions(channel, "busy")
    running, cancelled = begin(channel, busy(BUSY // 4)), begin(channel, busy(1))
    cancelled.cancel()
    assert (cancelled.code(), running.code()) == (grpc.StatusCode.CANCELLED, OK)
    assert begin(channel, busy(0)).code() == OK
    assert executions(channel, "busy") - before == 2


def test_a_stopping_server(start: Callable[[], Any]) -> None:
    """A stopping server rejects new requests as UNAVAILABLE, and finishes those in flight."""
    with start() as process, grpc.insecure_channel(process.stdout.readline().split()[-1]) as channel:
        assert begin(channel, good()).code() == OK
        running = begin(channel, busy(BUSY))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert begin(channel, good()).code() == UNAVAILABLE
        assert running.code() == OK
        assert process.wait(20) == 0


def test_a_bad_request_of_a_stream(channel: grpc.Channel) -> None:
    """The stream stays OK; the error is in the response."""
    sent = [good().SerializeToString(), good(model_name="nothing").SerializeToString(), good().SerializeToString()]
    call = channel.stream_stream(METHODS["ModelStreamInfer"].path)(iter(sent), timeout=20)
    responses = [inference.ModelStreamInferResponse.FromString(data) for data in call]
    assert [bool(response.error_message) for response in responses] == [False, True, False]
    assert call.code() == OK
