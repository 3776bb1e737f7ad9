"""A gRPC server that computes nothing: `python -m bench.replay_server URL MODEL` replays responses of another server.

A request to it costs only the transport and the client.
"""

import asyncio
import signal
import sys

import grpc
import grpc.aio
import numpy as np

from protos import inference, loader
from serve.client.messages import infer_request
from serve.client.sync import Client

SERVICE = "inference.GRPCInferenceService"


def record(url: str, model: str) -> dict[str, bytes]:
    """Return one response of the server at `url` for each method that the load test calls, by method name."""
    methods = {method.name: method for method in loader.service(SERVICE)}
    with Client(url) as client:
        info = client.model(model)
    pixels = {spec.name: np.zeros((1, *spec.shape[1:]), np.uint8) for spec in info.inputs}
    requests = {
        "ModelMetadata": inference.ModelMetadataRequest(name=model),
        "ModelConfig": inference.ModelConfigRequest(name=model),
        "ModelInfer": infer_request(model, pixels, None, ""),
    }
    with grpc.insecure_channel(url) as channel:
        return {
            name: channel.unary_unary(methods[name].path)(request.SerializeToString())
            for name, request in requests.items()
        }


def replay_handler(response: bytes) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """Return a handler that sends `response` for every request."""

    async def respond(_: bytes, __: object) -> bytes:
        return response

    return grpc.unary_unary_rpc_method_handler(respond)


async def serve(responses: dict[str, bytes]) -> None:
    """Replay `responses`, by method name, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {name: replay_handler(response) for name, response in responses.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready: replaying responses on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(serve(record(*sys.argv[1:3])))
