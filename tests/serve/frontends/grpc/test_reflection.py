"""Tests of reflection, with which clients without .proto files, such as grpcurl, discover every service."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos import loader

SERVICES = {
    "grpc.health.v1.Health": {"Check", "Watch", "List"},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo"},
    "inference.GRPCInferenceService": {method.name for method in loader.service("inference.GRPCInferenceService")},
    "zoonnx.v1.Introspection": {"Layers"},
}


@pytest.fixture
def database(channel: grpc.Channel) -> Any:
    """The server's services and their descriptors, by reflection."""
    return ProtoReflectionDescriptorDatabase(channel)


def test_every_service_is_listed(database: Any) -> None:
    """All services are listed, and no others."""
    assert sorted(database.get_services()) == sorted(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_is_described(database: Any, service: str) -> None:
    """Each service is described with its methods and their messages."""
    descriptor = DescriptorPool(database).FindServiceByName(service)
    assert {method.name for method in descriptor.methods} >= SERVICES[service] - {"List"}
    assert all(method.input_type and method.output_type for method in descriptor.methods)


def test_there_are_twenty_methods() -> None:
    """Triton's service has 20 methods."""
    assert len(SERVICES["inference.GRPCInferenceService"]) == 20


def test_a_call_by_reflection_alone(database: Any, channel: grpc.Channel) -> None:
    """The descriptors from reflection suffice for an inference request."""
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
    request, response = GetMessageClass(method.input_type)(), GetMessageClass(method.output_type)
    request.model_name = "bare"
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    tensor.contents.fp32_contents.extend([1, 2, 3])
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    result: Any = response.FromString(call(request.SerializeToString(), timeout=20))
    assert [(output.name, list(output.shape)) for output in result.outputs] == [("y", [1, 3])]
