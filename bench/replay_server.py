"""A gRPC server that computes nothing: `python -m bench.replay_server URL MODEL` answers as the server at URL did once.

What it costs to serve it is the transport and the client alone.
"""

import asyncio
import signal
import sys

import grpc
import grpc.aio
import numpy as np

from protos import inference, loader
from serve.client.sync import Client, infer_message

SERVICE = "inference.GRPCInferenceService"


def recorded(url: str, model: str) -> dict[str, bytes]:
    """The answers of the server at `url`, by method, of which a client of the benchmark asks."""
    methods = {method.name: method for method in loader.service(SERVICE)}
    with Client(url) as client:
        info = client.model(model)
    pixels = {spec.name: np.zeros((1, *spec.shape[1:]), np.uint8) for spec in info.inputs}
    requests = {
        "ModelMetadata": inference.ModelMetadataRequest(name=model),
        "ModelConfig": inference.ModelConfigRequest(name=model),
        "ModelInfer": infer_message(model, pixels, None, ""),
    }
    with grpc.insecure_channel(url) as channel:
        return {
            name: channel.unary_unary(methods[name].path)(request.SerializeToString())
            for name, request in requests.items()
        }


def handler(answer: bytes) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """Answer whatever comes with `answer`."""

    async def respond(_: bytes, __: object) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(respond)


async def serve(answers: dict[str, bytes]) -> None:
    """Answer until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {name: handler(answer) for name, answer in answers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready: canned answers on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(serve(recorded(*sys.argv[1:3])))
