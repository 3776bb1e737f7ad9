# Generated from manifest.proto by `python -m protos.generate`.
# ruff: noqa: E501, I001, RUF023, UP007, UP045
# fmt: off
from typing import Any as _Any
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Weights(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHTS_UNSPECIFIED: _ClassVar[Weights]
    WEIGHTS_RANDOM: _ClassVar[Weights]
    WEIGHTS_TRAINED: _ClassVar[Weights]
    WEIGHTS_PRETRAINED: _ClassVar[Weights]
    WEIGHTS_GIVEN: _ClassVar[Weights]

class LayerStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_STATUS_UNSPECIFIED: _ClassVar[LayerStatus]
    EXACT: _ClassVar[LayerStatus]
    ALIAS: _ClassVar[LayerStatus]
    FOLDED: _ClassVar[LayerStatus]
    NOT_EXPORTED: _ClassVar[LayerStatus]
WEIGHTS_UNSPECIFIED: Weights
WEIGHTS_RANDOM: Weights
WEIGHTS_TRAINED: Weights
WEIGHTS_PRETRAINED: Weights
WEIGHTS_GIVEN: Weights
LAYER_STATUS_UNSPECIFIED: LayerStatus
EXACT: LayerStatus
ALIAS: LayerStatus
FOLDED: LayerStatus
NOT_EXPORTED: LayerStatus

class Manifest(_message.Message):
    __slots__ = ("schema_version", "name", "zoonnx_version", "source", "preprocessing", "labels", "inputs", "outputs", "format", "layer_map", "parity", "files", "shapes", "head", "variant", "sha256")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ZOONNX_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    LAYER_MAP_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    name: str
    zoonnx_version: str
    source: Source
    preprocessing: Preprocessing
    labels: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    format: Format
    layer_map: LayerMap
    parity: Parity
    files: _containers.RepeatedCompositeFieldContainer[File]
    shapes: Shapes
    head: Head
    variant: Variant
    sha256: str
    def __init__(self, schema_version: _Optional[int] = ..., name: _Optional[str] = ..., zoonnx_version: _Optional[str] = ..., source: _Optional[_Union[Source, _Mapping[str, _Any]]] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping[str, _Any]]] = ..., labels: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping[str, _Any]]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping[str, _Any]]]] = ..., format: _Optional[_Union[Format, _Mapping[str, _Any]]] = ..., layer_map: _Optional[_Union[LayerMap, _Mapping[str, _Any]]] = ..., parity: _Optional[_Union[Parity, _Mapping[str, _Any]]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping[str, _Any]]]] = ..., shapes: _Optional[_Union[Shapes, _Mapping[str, _Any]]] = ..., head: _Optional[_Union[Head, _Mapping[str, _Any]]] = ..., variant: _Optional[_Union[Variant, _Mapping[str, _Any]]] = ..., sha256: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("net", "weights", "licence", "url", "dataset", "seed", "metrics")
    NET_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    net: str
    weights: Weights
    licence: str
    url: str
    dataset: str
    seed: int
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    def __init__(self, net: _Optional[str] = ..., weights: _Optional[_Union[Weights, str]] = ..., licence: _Optional[str] = ..., url: _Optional[str] = ..., dataset: _Optional[str] = ..., seed: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping[str, _Any]]]] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("channels", "height", "width", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    CROP_PCT_FIELD_NUMBER: _ClassVar[int]
    CROP_MODE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    channels: int
    height: int
    width: int
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, channels: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., interpolation: _Optional[str] = ..., crop_pct: _Optional[float] = ..., crop_mode: _Optional[str] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("activation", "temperature")
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    activation: str
    temperature: float
    def __init__(self, activation: _Optional[str] = ..., temperature: _Optional[float] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    limits: Limits
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., limits: _Optional[_Union[Limits, _Mapping[str, _Any]]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Format(_message.Message):
    __slots__ = ("opset", "ir_version", "exporter")
    OPSET_FIELD_NUMBER: _ClassVar[int]
    IR_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    opset: int
    ir_version: int
    exporter: str
    def __init__(self, opset: _Optional[int] = ..., ir_version: _Optional[int] = ..., exporter: _Optional[str] = ...) -> None: ...

class LayerMap(_message.Message):
    __slots__ = ("layers",)
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    def __init__(self, layers: _Optional[_Iterable[_Union[Layer, _Mapping[str, _Any]]]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("path", "call", "element", "name", "kind", "status", "value", "of", "reason", "shape", "max_abs_error", "reference_error", "tolerance", "fields", "shape_witnesses")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_WITNESSES_FIELD_NUMBER: _ClassVar[int]
    path: str
    call: int
    element: int
    name: str
    kind: str
    status: LayerStatus
    value: str
    of: str
    reason: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    max_abs_error: float
    reference_error: float
    tolerance: float
    fields: _containers.RepeatedCompositeFieldContainer[Field]
    shape_witnesses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., call: _Optional[int] = ..., element: _Optional[int] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ..., status: _Optional[_Union[LayerStatus, str]] = ..., value: _Optional[str] = ..., of: _Optional[str] = ..., reason: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., max_abs_error: _Optional[float] = ..., reference_error: _Optional[float] = ..., tolerance: _Optional[float] = ..., fields: _Optional[_Iterable[_Union[Field, _Mapping[str, _Any]]]] = ..., shape_witnesses: _Optional[_Iterable[str]] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("size", "jump", "start", "exact")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    JUMP_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    size: float
    jump: float
    start: float
    exact: bool
    def __init__(self, size: _Optional[float] = ..., jump: _Optional[float] = ..., start: _Optional[float] = ..., exact: _Optional[bool] = ...) -> None: ...

class Shapes(_message.Message):
    __slots__ = ("module_outputs", "module_outputs_verified", "other_values", "other_values_verified", "unverified", "witnesses")
    MODULE_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MODULE_OUTPUTS_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    OTHER_VALUES_FIELD_NUMBER: _ClassVar[int]
    OTHER_VALUES_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    UNVERIFIED_FIELD_NUMBER: _ClassVar[int]
    WITNESSES_FIELD_NUMBER: _ClassVar[int]
    module_outputs: int
    module_outputs_verified: int
    other_values: int
    other_values_verified: int
    unverified: _containers.RepeatedScalarFieldContainer[str]
    witnesses: _containers.RepeatedCompositeFieldContainer[ShapeWitness]
    def __init__(self, module_outputs: _Optional[int] = ..., module_outputs_verified: _Optional[int] = ..., other_values: _Optional[int] = ..., other_values_verified: _Optional[int] = ..., unverified: _Optional[_Iterable[str]] = ..., witnesses: _Optional[_Iterable[_Union[ShapeWitness, _Mapping[str, _Any]]]] = ...) -> None: ...

class ShapeWitness(_message.Message):
    __slots__ = ("name", "values", "silent_because")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SILENT_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: int
    silent_because: str
    def __init__(self, name: _Optional[str] = ..., values: _Optional[int] = ..., silent_because: _Optional[str] = ...) -> None: ...

class Parity(_message.Message):
    __slots__ = ("checks", "inputs", "extremes", "cast")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    EXTREMES_FIELD_NUMBER: _ClassVar[int]
    CAST_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[ParityCheck]
    inputs: _containers.RepeatedScalarFieldContainer[str]
    extremes: _containers.RepeatedCompositeFieldContainer[ExtremeCheck]
    cast: Cast
    def __init__(self, checks: _Optional[_Iterable[_Union[ParityCheck, _Mapping[str, _Any]]]] = ..., inputs: _Optional[_Iterable[str]] = ..., extremes: _Optional[_Iterable[_Union[ExtremeCheck, _Mapping[str, _Any]]]] = ..., cast: _Optional[_Union[Cast, _Mapping[str, _Any]]] = ...) -> None: ...

class Cast(_message.Message):
    __slots__ = ("dtype", "differences", "failure")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    differences: _containers.RepeatedCompositeFieldContainer[OutputDifference]
    failure: str
    def __init__(self, dtype: _Optional[str] = ..., differences: _Optional[_Iterable[_Union[OutputDifference, _Mapping[str, _Any]]]] = ..., failure: _Optional[str] = ...) -> None: ...

class OutputDifference(_message.Message):
    __slots__ = ("output", "max_abs_difference", "magnitude")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAGNITUDE_FIELD_NUMBER: _ClassVar[int]
    output: str
    max_abs_difference: float
    magnitude: float
    def __init__(self, output: _Optional[str] = ..., max_abs_difference: _Optional[float] = ..., magnitude: _Optional[float] = ...) -> None: ...

class ExtremeCheck(_message.Message):
    __slots__ = ("input", "output", "max_abs_error", "reference_error", "tolerance", "unreliable")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    UNRELIABLE_FIELD_NUMBER: _ClassVar[int]
    input: str
    output: str
    max_abs_error: float
    reference_error: float
    tolerance: float
    unreliable: bool
    def __init__(self, input: _Optional[str] = ..., output: _Optional[str] = ..., max_abs_error: _Optional[float] = ..., reference_error: _Optional[float] = ..., tolerance: _Optional[float] = ..., unreliable: _Optional[bool] = ...) -> None: ...

class ParityCheck(_message.Message):
    __slots__ = ("batch", "output", "max_abs_error", "reference_error", "tolerance", "height", "width")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    batch: int
    output: str
    max_abs_error: float
    reference_error: float
    tolerance: float
    height: int
    width: int
    def __init__(self, batch: _Optional[int] = ..., output: _Optional[str] = ..., max_abs_error: _Optional[float] = ..., reference_error: _Optional[float] = ..., tolerance: _Optional[float] = ..., height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("path", "sha256", "bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    bytes: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("kind", "of", "of_sha256", "how", "dataset", "calibration_pictures", "untrained", "figures", "layers", "worst_layer")
    KIND_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    OF_SHA256_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_PICTURES_FIELD_NUMBER: _ClassVar[int]
    UNTRAINED_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    WORST_LAYER_FIELD_NUMBER: _ClassVar[int]
    kind: str
    of: str
    of_sha256: str
    how: str
    dataset: str
    calibration_pictures: int
    untrained: bool
    figures: _containers.RepeatedCompositeFieldContainer[Metric]
    layers: _containers.RepeatedCompositeFieldContainer[LayerSqnr]
    worst_layer: str
    def __init__(self, kind: _Optional[str] = ..., of: _Optional[str] = ..., of_sha256: _Optional[str] = ..., how: _Optional[str] = ..., dataset: _Optional[str] = ..., calibration_pictures: _Optional[int] = ..., untrained: _Optional[bool] = ..., figures: _Optional[_Iterable[_Union[Metric, _Mapping[str, _Any]]]] = ..., layers: _Optional[_Iterable[_Union[LayerSqnr, _Mapping[str, _Any]]]] = ..., worst_layer: _Optional[str] = ...) -> None: ...

class LayerSqnr(_message.Message):
    __slots__ = ("name", "sqnr_db")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SQNR_DB_FIELD_NUMBER: _ClassVar[int]
    name: str
    sqnr_db: float
    def __init__(self, name: _Optional[str] = ..., sqnr_db: _Optional[float] = ...) -> None: ...
