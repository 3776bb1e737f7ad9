"""Message classes and services from `descriptors.binpb`.

protoc's own `_pb2.py` modules register in protobuf's default pool, where two packages that define `inference.*` collide
at import. These descriptors are in `POOL`, which no other package uses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTORS = Path(__file__).with_name("descriptors.binpb")


@dataclass(frozen=True)
class Method:
    """One RPC of a service.

    Attributes:
        name: Its name, such as `ModelInfer`.
        path: Its path in gRPC calls, such as `/inference.GRPCInferenceService/ModelInfer`.
        request: Message class of requests.
        response: Message class of responses.
        client_streaming: Whether the client sends a stream of requests.
        server_streaming: Whether the server sends a stream of responses.
    """

    name: str
    path: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool


def file(name: str) -> FileDescriptor:
    """Return the descriptor of a .proto file, such as `inference.proto`.

    Raises:
        KeyError: There is no such file.
    """
    return POOL.FindFileByName(name)


def message(full_name: str) -> type[Message]:
    """Return the class of a message, such as `inference.ModelInferRequest`.

    Raises:
        KeyError: No .proto file defines it.
    """
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def enum(full_name: str) -> Any:
    """Return the wrapper of an enum, such as `inference.DataType`, which maps names to numbers and back.

    Raises:
        KeyError: No .proto file defines it.
    """
    return EnumTypeWrapper(POOL.FindEnumTypeByName(full_name))


def service(full_name: str) -> tuple[Method, ...]:
    """Return the RPCs of a service, in the order of the .proto file.

    Raises:
        KeyError: No .proto file defines it.
    """
    return tuple(
        Method(
            name=method.name,
            path=f"/{full_name}/{method.name}",
            request=message_factory.GetMessageClass(method.input_type),
            response=message_factory.GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in POOL.FindServiceByName(full_name).methods
    )


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for proto in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(proto.SerializeToString())
    return pool


POOL = _pool()
