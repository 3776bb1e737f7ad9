"""The two RPCs that run a model: ModelInfer, and ModelStreamInfer, which carries many requests on one stream."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protos import inference, loader
from serve.frontends.grpc.inbox import Inbox
from serve.frontends.grpc.streaming import ordered_responses
from serve.frontends.status import status
from serve.wire.frames import stream_frame

Context = grpc.aio.ServicerContext[bytes, bytes]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MESSAGE = "ModelInferRequest"


def infer_unary(inbox: Inbox, method: loader.Method) -> MethodHandler:
    """Return the handler of ModelInfer."""

    async def respond(data: bytes, context: Context) -> bytes | None:
        try:
            return await inbox.infer(data)
        except Exception as error:  # noqa: BLE001  status translates all of them
            return await context.abort(*status(error, method.path, MESSAGE))

    return grpc.unary_unary_rpc_method_handler(respond)


def infer_stream(inbox: Inbox, method: loader.Method) -> MethodHandler:
    """Return the handler of ModelStreamInfer: an error is a response of the stream, which continues."""

    async def respond_one(data: bytes) -> bytes:
        try:
            return stream_frame(await inbox.infer(data))
        except Exception as error:  # noqa: BLE001  as above
            _, details = status(error, method.path, MESSAGE)
            return _failure(data, details)

    async def respond(requests: AsyncIterator[bytes], _: Context) -> AsyncIterator[bytes]:
        async with aclosing(ordered_responses(requests, respond_one)) as responses:
            async for response in responses:
                yield response

    return grpc.stream_stream_rpc_method_handler(respond)


def _failure(request: bytes, details: str) -> bytes:
    """Return the response to a failed request of a stream; the stream continues."""
    try:
        request_id = inference.ModelInferRequest.FromString(request).id
    except DecodeError:
        request_id = ""
    response = inference.ModelInferResponse(id=request_id)
    return inference.ModelStreamInferResponse(error_message=details, infer_response=response).SerializeToString()
