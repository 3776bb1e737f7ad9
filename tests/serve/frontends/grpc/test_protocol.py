"""Tests of the server over gRPC: the response of each RPC, and the status of each invalid request."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference, loader

SERVICE = "inference.GRPCInferenceService"
METHODS = {method.name: method for method in loader.service(SERVICE)}
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
Call = Callable[[str, Message | bytes], Any]
Infer = inference.ModelInferRequest
Input = Infer.InferInputTensor
Contents = inference.InferTensorContents


@pytest.fixture
def call(channel: grpc.Channel) -> Call:
    """A function that calls an RPC with a message, or with arbitrary bytes."""

    def call_rpc(name: str, request: Message | bytes) -> Any:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        method = METHODS[name]
        rpc = channel.unary_unary(
            method.path, request_serializer=bytes, response_deserializer=method.response.FromString
        )
        return rpc(data, timeout=20)

    return call_rpc


def failure(call: Call, name: str, request: Message | bytes) -> tuple[grpc.StatusCode, str]:
    """Return status and details of a request that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(name, request)
    return caught.value.code(), caught.value.details()


def status(call: Call, name: str) -> grpc.StatusCode:
    """Return the status of an empty request."""
    try:
        call(name, b"")
    except grpc.RpcError as error:
        return error.code()  # type: ignore[no-any-return,attr-defined]
    return grpc.StatusCode.OK


def request(
    model: str, *inputs: Input, outputs: tuple[str, ...] = (), version: str = "", raw: tuple[bytes, ...] = ()
) -> Infer:
    requested = [Infer.InferRequestedOutputTensor(name=name) for name in outputs]
    return Infer(
        model_name=model, model_version=version, id="42", inputs=inputs, outputs=requested, raw_input_contents=raw
    )


def floats(name: str, *shape: int) -> Input:
    contents = Contents(fp32_contents=range(int(np.prod(shape))))
    return Input(name=name, datatype="FP32", shape=shape, contents=contents)


def bare(*values: float) -> Input:
    return Input(name="x", datatype="FP32", shape=[1, len(values)], contents=Contents(fp32_contents=values))


def arithmetic(**changes: Any) -> Infer:
    return request("arithmetic", floats("a", 1, 3), floats("b", 1, 3), **changes)


def raw(model: str, datatype: str, shape: list[int], data: bytes, name: str = "x") -> Infer:
    return request(model, Input(name=name, datatype=datatype, shape=shape), raw=(data,))


def with_parameter(name: str, **value: Any) -> Infer:
    message = arithmetic(outputs=("sum",))
    message.outputs[0].parameters[name].CopyFrom(inference.InferParameter(**value))
    return message


def with_request_parameter(name: str, **value: Any) -> Infer:
    message = arithmetic()
    message.parameters[name].CopyFrom(inference.InferParameter(**value))
    return message


def classes_of_halves() -> Infer:
    message = raw("half", "FP16", [1, 2], bytes(4))
    message.outputs.add(name="y").parameters["classification"].int64_param = 1
    return message


class TestStatus:
    """Health, metadata and offered RPCs of the server."""

    def test_live_and_ready(self, call: Call) -> None:
        """A server that has started is live and ready."""
        assert call("ServerLive", inference.ServerLiveRequest()).live
        assert call("ServerReady", inference.ServerReadyRequest()).ready

    @pytest.mark.parametrize(
        ("name", "version", "ready"),
        [("bare", "", True), ("versions", "2", True), ("versions", "1", False), ("nothing", "", False)],
    )
    def test_model_ready(self, call: Call, name: str, version: str, ready: bool) -> None:
        """An unknown model or version is not ready, without an error."""
        assert call("ModelReady", inference.ModelReadyRequest(name=name, version=version)).ready is ready

    def test_server_metadata(self, call: Call, request: pytest.FixtureRequest) -> None:
        """The server reports its name, only the extensions that it implements, and its frontend."""
        metadata = call("ServerMetadata", inference.ServerMetadataRequest())
        expected = [
            "classification",
            "model_repository",
            "schedule_policy",
            "model_configuration",
            "system_shared_memory",
            "parameters",
            "statistics",
            "logging",
            f"grpc_frontend({request.node.callspec.params['serve']})",
        ]
        assert (metadata.name, list(metadata.extensions)) == ("zoonnx", expected)

    @pytest.mark.parametrize("service", ["", SERVICE])
    def test_health_service(self, channel: grpc.Channel, service: str) -> None:
        """grpc.health.v1 reports SERVING for the server and for the inference service."""
        response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert response.status == health_pb2.HealthCheckResponse.SERVING

    def test_every_rpc_is_implemented(self, call: Call) -> None:
        """Every RPC of the protocol is implemented, except that GPU memory needs a GPU."""
        names = sorted(METHODS.keys() - {"ModelStreamInfer"})
        assert [name for name in names if status(call, name) == UNIMPLEMENTED] == ["CudaSharedMemoryRegister"]


class TestMetadata:
    """Metadata and configuration of models."""

    def test_metadata_includes_the_batch(self, call: Call) -> None:
        """Shapes include the batch; platform and versions are Triton's."""
        metadata = call("ModelMetadata", inference.ModelMetadataRequest(name="arithmetic"))
        assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["1"])
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
            ("a", "FP32", [-1, 3]),
            ("b", "FP32", [-1, 3]),
        ]

    def test_versions_of_the_policy(self, call: Call) -> None:
        """Only the versions that the policy names are served; the highest number is the default."""
        metadata = call("ModelMetadata", inference.ModelMetadataRequest(name="versions"))
        assert (list(metadata.versions), list(metadata.inputs[0].shape)) == (["2", "10"], [-1, 10])

    def test_config_keeps_the_written_fields(self, call: Call) -> None:
        """The configuration is completed from the graph; parameters are returned unchanged."""
        config = call("ModelConfig", inference.ModelConfigRequest(name="arithmetic")).config
        assert (config.name, config.backend, config.max_batch_size) == ("arithmetic", "onnxruntime", 4)
        assert config.parameters["note"].string_value == "kept"
        assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.input] == [
            ("a", inference.TYPE_FP32, [3]),
            ("b", inference.TYPE_FP32, [3]),
        ]
        assert config.instance_group[0].kind == inference.ModelInstanceGroup.KIND_CPU


class TestInference:
    """Valid requests."""

    def test_outputs_in_alphabetical_order(self, call: Call) -> None:
        """All outputs are returned raw and sorted by name, with the request's id and the version that ran."""
        response = call("ModelInfer", arithmetic())
        assert (response.model_name, response.model_version, response.id) == ("arithmetic", "1", "42")
        assert [output.name for output in response.outputs] == ["difference", "sum"]
        assert np.frombuffer(response.raw_output_contents[1], "<f4").tolist() == [0, 2, 4]

    def test_requested_outputs_once_each(self, call: Call) -> None:
        """A repeated output is returned once, in the server's order."""
        response = call("ModelInfer", arithmetic(outputs=("sum", "difference", "sum")))
        assert [output.name for output in response.outputs] == ["difference", "sum"]
        assert [output.name for output in call("ModelInfer", arithmetic(outputs=("sum",))).outputs] == ["sum"]

    def test_raw_equals_typed(self, call: Call) -> None:
        """Raw and typed inputs of the same numbers have the same response."""
        data = np.arange(3, dtype="<f4").tobytes()
        assert call("ModelInfer", raw("bare", "FP32", [1, 3], data)) == call(
            "ModelInfer", request("bare", bare(0, 1, 2))
        )

    def test_model_without_batches(self, call: Call) -> None:
        """A graph of fixed shape accepts exactly that shape."""
        response = call("ModelInfer", request("unbatched", floats("x", 2, 3)))
        assert list(response.outputs[0].shape) == [2, 3]

    def test_strings(self, call: Call) -> None:
        """Strings are sent as BYTES."""
        contents = Contents(bytes_contents=["zürich".encode(), b""])
        response = call(
            "ModelInfer", request("text", Input(name="x", datatype="BYTES", shape=[1, 2], contents=contents))
        )
        assert response.raw_output_contents[0] == b"\x07\0\0\0z\xc3\xbcrich\0\0\0\0"

    def test_a_version(self, call: Call) -> None:
        """A request may select a version that is not the newest."""
        assert call("ModelInfer", request("versions", bare(1, 2), version="2")).model_version == "2"


NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
INVALID_REQUESTS: dict[str, tuple[Infer, grpc.StatusCode, str]] = {
    "unknown model": (request("nothing", floats("x", 1, 3)), NOT_FOUND, "no model 'nothing'"),
    "unknown model, bad tensor": (raw("nothing", "FP33", [1], b""), NOT_FOUND, "no model 'nothing'"),
    "empty request": (Infer(), NOT_FOUND, "no model ''"),
    "unknown version": (request("versions", bare(1), version="1"), NOT_FOUND, "no version 1; it has 2, 10"),
    "version too long": (request("versions", bare(1), version="9" * 5000), NOT_FOUND, "no version"),
    "version is not a number": (request("bare", bare(1, 2, 3), version="one"), INVALID, "got 'one'"),
    "negative version": (request("bare", bare(1, 2, 3), version="-1"), INVALID, "got '-1'"),
    "other datatype": (raw("bare", "INT32", [1, 3], bytes(12)), INVALID, "expects FP32; got INT32"),
    "unknown datatype": (raw("bare", "FP33", [1, 3], bytes(12)), INVALID, "unknown datatype 'FP33'"),
    "wrong shape": (request("bare", bare(1, 2)), INVALID, "expects shape [-1, 3]; got [1, 2]"),
    "wrong rank": (request("bare", floats("x", 3)), INVALID, "expects shape [-1, 3]; got [3]"),
    "negative size": (raw("bare", "FP32", [-1, -3], bytes(12)), INVALID, "negative size"),
    "huge size": (raw("bare", "FP32", [2**62, 2**62], bytes(12)), INVALID, "; got 12"),
    "empty tensor of a huge size": (raw("bare", "FP32", [0, 2**62, 2**62], b""), INVALID, "no array can have shape"),
    "too many dimensions": (raw("bare", "FP32", [1] * 100, bytes(4)), INVALID, "no array can have 100 dimensions"),
    "huge sizes": (raw("bare", "FP32", [2**62] * 400, b""), INVALID, "no array can have 400 dimensions"),
    "very many huge sizes": (raw("bare", "FP32", [2**62] * 20_000, b""), INVALID, "can have 20000 dimensions"),
    "huge strings": (raw("text", "BYTES", [2**62] * 64, b""), INVALID, "; got 0"),
    "long unknown output": (arithmetic(outputs=("sum" * 10**6,)), INVALID, "sumsu...'; layer names are"),
    "strings for numbers": (raw("bare", "BYTES", [1, 3], b"\x09\0\0\0a"), INVALID, "expects FP32; got BYTES"),
    "unknown input, bad data": (raw("bare", "BYTES", [1], b"\x09", name="z"), INVALID, "no input 'z'"),
    "very many inputs": (
        request("bare", *[Input(name="x", datatype="FP32", shape=[2**62] * 9)] * 9999, raw=(b"",)),
        INVALID,
        "'x' appears more than once",
    ),
    "a long name": (Infer(model_name="é" * 50_000), grpc.StatusCode.NOT_FOUND, "there is no model"),
    "batch too large": (request("bare", floats("x", 5, 3)), INVALID, "between 1 and 4; got 5"),
    "batch of 0": (raw("bare", "FP32", [0, 3], b""), INVALID, "between 1 and 4; got 0"),
    "unequal batches": (request("arithmetic", floats("a", 1, 3), floats("b", 2, 3)), INVALID, "same batch size"),
    "too few bytes": (raw("bare", "FP32", [1, 3], bytes(11)), INVALID, "needs 12 bytes; got 11"),
    "too few numbers": (
        request("bare", Input(name="x", datatype="FP32", shape=[1, 3], contents=Contents(fp32_contents=[1]))),
        INVALID,
        "has 3 elements; got 1",
    ),
    "number too large": (
        request("bytes", Input(name="x", datatype="UINT8", shape=[1, 2], contents=Contents(uint_contents=[1, 300]))),
        INVALID,
        "does not fit into UINT8",
    ),
    "other list": (
        request("bare", Input(name="x", datatype="FP32", shape=[1, 3], contents=Contents(fp64_contents=[1, 2, 3]))),
        INVALID,
        "must be sent in fp32_contents, not fp64_contents",
    ),
    "half as a list": (request("half", Input(name="x", datatype="FP16", shape=[1, 2])), INVALID, "only be sent raw"),
    "truncated string length": (raw("text", "BYTES", [1, 2], b"\x01\0\0\0a\x02"), INVALID, "middle of an element"),
    "truncated string": (raw("text", "BYTES", [1, 2], b"\x09\0\0\0a"), INVALID, "middle of an element"),
    "not UTF-8": (raw("text", "BYTES", [1, 2], b"\x01\0\0\0\xff\0\0\0\0"), INVALID, "not UTF-8"),
    "missing input": (request("arithmetic", floats("a", 1, 3)), INVALID, "input 'b' is missing"),
    "extra input": (request("bare", bare(1, 2, 3), floats("z", 1, 3)), INVALID, "no input 'z'; the model has x"),
    "repeated input": (request("bare", bare(1, 2, 3), bare(1, 2, 3)), INVALID, "'x' appears more than once"),
    "raw and typed": (request("bare", bare(1, 2, 3), raw=(bytes(12),)), INVALID, "all raw or all typed"),
    "more raw than inputs": (
        request("bare", Input(name="x", datatype="FP32", shape=[1, 3]), raw=(bytes(12), bytes(12))),
        INVALID,
        "describes 1 tensors; it has raw data for 2",
    ),
    "no data": (request("bare", Input(name="x", datatype="FP32", shape=[1, 3])), INVALID, "'x' has no data"),
    "unknown output": (arithmetic(outputs=("product",)), INVALID, "'product'"),
    "parameter's type": (with_parameter("classification", string_param="3"), INVALID, "must be of type int64_param"),
    "region's type": (with_parameter("shared_memory_region", int64_param=3), INVALID, "must be of type string_param"),
    "unknown region": (with_parameter("shared_memory_region", string_param="here"), NOT_FOUND, "region 'here'"),
    "negative classes": (with_parameter("classification", int64_param=-1), INVALID, "must be 0 or more; got -1"),
    "priority's type": (with_request_parameter("priority", string_param="1"), INVALID, "int64_param or uint64_param"),
    "timeout's type": (with_request_parameter("timeout", double_param=1.5), INVALID, "int64_param or uint64_param"),
    "negative timeout": (with_request_parameter("timeout", int64_param=-5), INVALID, "must be 0 or more; got -5"),
    "classes of halves": (classes_of_halves(), INVALID, "output 'y' is FP16, which cannot be classified"),
}


@pytest.mark.parametrize(("message", "status", "details"), INVALID_REQUESTS.values(), ids=INVALID_REQUESTS)
def test_invalid_request(call: Call, message: Infer, status: grpc.StatusCode, details: str) -> None:
    """Each kind of invalid request has Triton's status, and details that name the error."""
    actual_status, actual_details = failure(call, "ModelInfer", message)
    assert actual_status == status
    assert details in actual_details


@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelConfig"])
def test_unknown_model(call: Call, rpc: str) -> None:
    """An unknown model is NOT_FOUND in every RPC."""
    assert failure(call, rpc, METHODS[rpc].request(name="nothing"))[0] == NOT_FOUND  # type: ignore[call-arg]


def test_garbage(call: Call) -> None:
    """Bytes that are not a message are INTERNAL, as on a Triton server."""
    expected = (grpc.StatusCode.INTERNAL, "the bytes are not a ModelInferRequest.")
    assert failure(call, "ModelInfer", b"\xff\xff\xff") == expected


def test_failing_model_reveals_no_details(call: Call) -> None:
    """A model that fails on an input is INTERNAL, in one sentence without a path or the runtime's message."""
    tensors = [
        Input(name=name, datatype="INT64", shape=[len(values)], contents=Contents(int64_contents=values))
        for name, values in {"x": [1, 2, 3], "shape": [7]}.items()
    ]
    expected = (grpc.StatusCode.INTERNAL, "the model failed on this input; see the server's log.")
    assert failure(call, "ModelInfer", request("picky", *tensors)) == expected


def test_message_over_the_limit(call: Call) -> None:
    """A message that is too large is RESOURCE_EXHAUSTED."""
    message = raw("bare", "FP32", [1, 3], bytes(64 * 2**20 + 1))
    assert failure(call, "ModelInfer", message)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


class TestTritonclient:
    """tritonclient works unchanged."""

    def test_sync(self, url: str) -> None:
        """The client reads the model's configuration and infers."""
        with tritonclient.grpc.InferenceServerClient(url) as client:
            assert client.is_server_live()
            assert client.is_model_ready("arithmetic")
            assert client.get_model_config("arithmetic", as_json=True)["config"]["max_batch_size"] == 4
            result = client.infer("arithmetic", _tensors(tritonclient.grpc), request_id="7")
        assert result.as_numpy("sum").tolist() == [[1, 3, 5], [7, 9, 11]]
        assert result.get_response().id == "7"

    @pytest.mark.anyio
    async def test_async(self, url: str) -> None:
        """The asyncio client infers with many requests at a time."""
        async with tritonclient.grpc.aio.InferenceServerClient(url) as client:
            calls = [client.infer("arithmetic", _tensors(tritonclient.grpc)) for _ in range(20)]
            results = [result.as_numpy("difference").tolist() for result in await asyncio.gather(*calls)]
        assert results == [[[-1, -1, -1], [-1, -1, -1]]] * 20

    def test_error(self, url: str) -> None:
        """The client reports the server's status and details."""
        with (
            tritonclient.grpc.InferenceServerClient(url) as client,
            pytest.raises(tritonclient.grpc.InferenceServerException, match="there is no model 'nothing'") as caught,
        ):
            client.infer("nothing", _tensors(tritonclient.grpc))
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def _tensors(package: Any) -> list[Any]:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = []
    for name, array in {"a": values, "b": values + 1}.items():
        tensors.append(package.InferInput(name, array.shape, "FP32"))
        tensors[-1].set_data_from_numpy(array)
    return tensors
