# Generated from introspect.proto by `python -m protos.generate`.
# ruff: noqa: E501, I001, RUF023, UP007, UP045
# fmt: off
from typing import Any as _Any
from protos import manifest as _manifest_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LayerNames(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_NAMES_UNSPECIFIED: _ClassVar[LayerNames]
    MODULE_PATHS: _ClassVar[LayerNames]
    NODE_NAMES: _ClassVar[LayerNames]
LAYER_NAMES_UNSPECIFIED: LayerNames
MODULE_PATHS: LayerNames
NODE_NAMES: LayerNames

class LayersRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class LayersResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "names", "layers")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    names: LayerNames
    layers: _containers.RepeatedCompositeFieldContainer[_manifest_pb2.Layer]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., names: _Optional[_Union[LayerNames, str]] = ..., layers: _Optional[_Iterable[_Union[_manifest_pb2.Layer, _Mapping[str, _Any]]]] = ...) -> None: ...
