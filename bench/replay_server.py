"""A gRPC server that computes nothing: `python -m bench.replay_server URL MODEL FRONTEND` replays another server.

It answers each request with a recorded response, so that a request costs only the transport and the client. It runs on
either frontend of `zoonnx serve`: native or grpcio.
"""

import asyncio
import signal
import sys
import tempfile
import threading
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from protos import inference, loader
from serve.client.messages import infer_request
from serve.client.sync import Client
from serve.frontends.native.server import IO_THREADS, MAX_CALLS_AT_ONCE, PATH
from serve.wire import codec

SERVICE = "inference.GRPCInferenceService"


def record(url: str, model: str, rows: int) -> dict[str, bytes]:
    """Return one response of the server at `url` for each method that clients of the benchmarks call, by name."""
    methods = {method.name: method for method in loader.service(SERVICE)}
    with Client(url) as client:
        info = client.model(model)
    pixels = {spec.name: np.zeros((rows, *spec.shape[1:]), np.uint8) for spec in info.inputs}
    requests = {
        "ServerMetadata": inference.ServerMetadataRequest(),
        "ServerReady": inference.ServerReadyRequest(),
        "ModelReady": inference.ModelReadyRequest(name=model),
        "ModelMetadata": inference.ModelMetadataRequest(name=model),
        "ModelConfig": inference.ModelConfigRequest(name=model),
        "ModelInfer": codec.message_from_request(infer_request(model, pixels, None, "")),
    }
    with grpc.insecure_channel(url) as channel:
        responses = {
            name: channel.unary_unary(methods[name].path)(request.SerializeToString())
            for name, request in requests.items()
        }
    metadata = inference.ServerMetadataResponse.FromString(responses["ServerMetadata"])
    del metadata.extensions[:]  # else a client expects statistics
    return {**responses, "ServerMetadata": metadata.SerializeToString()}


def replay_handler(response: bytes) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """Return a handler that sends `response` for every request."""

    async def respond(_: bytes, __: object) -> bytes:
        return response

    return grpc.unary_unary_rpc_method_handler(respond)


def start_native(response: bytes, fallback: str) -> int:
    """Replay ModelInfer on pygrpc-native, in front of a server on the Unix socket `fallback`; return the port."""
    front = NativeGrpcFront("127.0.0.1:0", [(PATH, False)], io_threads=IO_THREADS, call_details=True)
    front.set_fallback(fallback)
    front.start()

    def replay() -> None:
        while (events := front.recv_batch(MAX_CALLS_AT_ONCE)) is not None:
            for kind, number, *_ in events:
                if kind == EVENT_CALL:
                    front.respond(number, response)

    threading.Thread(target=replay, daemon=True).start()
    return int(front.bound_port)


async def serve(responses: dict[str, bytes], frontend: str) -> None:
    """Replay `responses`, by method name, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {name: replay_handler(response) for name, response in responses.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "socket")
        port = server.add_insecure_port(f"unix:{socket}" if frontend == "native" else "127.0.0.1:0")
        await server.start()
        if frontend == "native":
            port = start_native(responses["ModelInfer"], str(socket))
        print(f"ready: replaying responses on 127.0.0.1:{port}", flush=True)
        await stop.wait()
        await server.stop(1)


if __name__ == "__main__":
    url, model, frontend, rows = sys.argv[1:5]
    asyncio.run(serve(record(url, model, int(rows)), frontend))
