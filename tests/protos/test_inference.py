"""Tests of `inference.proto` against tritonclient's descriptors, the reference for the protocol."""

import subprocess
import sys

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from protos import inference, loader

TRITON_FILES: tuple[FileDescriptor, ...] = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
SERVICE = "inference.GRPCInferenceService"
MESSAGES = [message for file in TRITON_FILES for message in file.message_types_by_name.values()]
ENUMS = [enum for file in TRITON_FILES for enum in file.enum_types_by_name.values()]


def _field(field: FieldDescriptor) -> dict[str, object]:
    return {
        "name": field.name,
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "message": field.message_type and field.message_type.full_name,
        "enum": field.enum_type and field.enum_type.full_name,
        "oneof": field.containing_oneof and field.containing_oneof.name,
    }


def _enum(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def _message(message: Descriptor) -> dict[str, object]:
    """Return all properties that the wire and text formats depend on, nested messages included."""
    return {
        "name": message.full_name,
        "fields": [_field(field) for field in sorted(message.fields, key=lambda field: field.number)],
        "messages": {nested.name: _message(nested) for nested in message.nested_types},
        "enums": {enum.name: _enum(enum) for enum in message.enum_types},
        "map": message.GetOptions().map_entry,
    }


@pytest.mark.parametrize("triton_message", MESSAGES, ids=lambda message: message.name)
def test_message_equals_tritons(triton_message: Descriptor) -> None:
    """Every field of every message has Triton's name, number, type and label."""
    assert _message(loader.POOL.FindMessageTypeByName(triton_message.full_name)) == _message(triton_message)


@pytest.mark.parametrize("triton_enum", ENUMS, ids=lambda enum: enum.name)
def test_enum_equals_tritons(triton_enum: EnumDescriptor) -> None:
    """Every enum value has Triton's name and number."""
    assert _enum(loader.POOL.FindEnumTypeByName(triton_enum.full_name)) == _enum(triton_enum)


def test_no_additional_message() -> None:
    """The file adds no messages to the protocol."""
    assert set(inference.DESCRIPTOR.message_types_by_name) == {message.name for message in MESSAGES}


def test_service_equals_tritons() -> None:
    """The 20 RPCs have Triton's paths, messages and streaming."""
    actual = [
        (
            m.path,
            m.request.DESCRIPTOR.full_name,
            m.response.DESCRIPTOR.full_name,
            m.client_streaming,
            m.server_streaming,
        )
        for m in loader.service(SERVICE)
    ]
    expected = [
        (
            f"/{SERVICE}/{m.name}",
            m.input_type.full_name,
            m.output_type.full_name,
            m.client_streaming,
            m.server_streaming,
        )
        for m in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    ]
    assert len(actual) == 20
    assert sorted(actual) == sorted(expected)


def test_bytes_are_compatible_both_ways() -> None:
    """Our classes read a request written by Triton's, and vice versa."""
    triton_request = service_pb2.ModelInferRequest(model_name="digits", id="7", raw_input_contents=[b"\x00\x01"])
    triton_request.inputs.add(name="image", datatype="UINT8", shape=[2]).parameters["priority"].int64_param = 3
    ours = inference.ModelInferRequest.FromString(triton_request.SerializeToString())
    assert ours.inputs[0].parameters["priority"].int64_param == 3
    assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == triton_request


@pytest.mark.parametrize("order", ["protos, tritonclient", "tritonclient, protos"])
def test_shares_a_process_with_tritonclient(order: str) -> None:
    """Both packages define `inference`; they do not collide in either order of import."""
    lines = {
        "protos": "from protos import inference as ours",
        "tritonclient": "from tritonclient.grpc import service_pb2 as theirs",
    }
    program = "; ".join(
        [*(lines[name] for name in order.split(", ")), "ours.ModelInferRequest; theirs.ModelInferRequest"]
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
