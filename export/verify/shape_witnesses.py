"""Independent sources of the shapes of a model's values.

    pytorch    the network on the meta device: shapes without numbers
    geometry   closed-form arithmetic of the layers, from zoo.geometry
    onnx       ONNX's strict shape inference with data propagation
    symbolic   onnxruntime's symbolic shape inference
    runtime    the arrays that onnxruntime computes

The shapes that the exporter wrote into the file come from PyTorch, and are therefore removed before an inference. Each
witness reports the shape of a value in several cases; a dimension is unknown if it is not a function of the input's
sizes.

Requires: a model whose layer map names the value of each module's output.
Ensures: no witness uses the results of another one. A witness that fails reports the reason.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from torch import nn

from export.interface.interface import Interface, Size, batch_text
from export.names import BATCH, HEIGHT, WIDTH
from export.onnx_model.external_data import weightless
from export.onnx_model.stages import StagedRuntime
from export.tracing.meta_device import to_meta_device
from export.tracing.trace import layer_shapes
from export.verify import symbolic_shapes
from export.verify.dim_expr import evaluate
from export.verify.receptive_fields import add_receptive_fields
from protos import manifest
from protos.layer_names import layer_name
from zoo.errors import GeometryError
from zoo.geometry.measure import measure

PYTORCH, GEOMETRY, ONNX, SYMBOLIC, RUNTIME = "pytorch", "geometry", "onnx", "symbolic", "runtime"
MAX_MESSAGE = 200  # characters of an error that are reported

Shape = tuple[int | None, ...]  # None: unknown


@dataclass(frozen=True)
class Case:
    """An input size for which shapes are reported."""

    batch: int
    size: Size = ()

    def __str__(self) -> str:
        return batch_text(self.batch, self.size)


Shapes = Mapping[str, Mapping[Case, Shape]]  # by value (or layer) name and case


@dataclass(frozen=True)
class Witness:
    """The shapes that one source reports.

    Attributes:
        name: The source.
        shapes: The shapes of values, in each case.
        failure: Why shapes are missing; empty if the source did not fail.
    """

    name: str
    shapes: Shapes
    failure: str = ""


def query_witnesses(
    model: onnx.ModelProto,
    network: nn.Module,
    layer_map: manifest.LayerMap,
    interface: Interface,
    cases: Sequence[Case],
) -> list[Witness]:
    """Return the shapes reported by all sources, the runtime first, and write receptive fields into `layer_map`."""
    meta = to_meta_device(network)
    onnx_error = onnx.shape_inference.InferenceError
    return [
        Witness(RUNTIME, _runtime(model, interface, cases)),
        _query(PYTORCH, lambda: _by_value(layer_map, _pytorch(meta, interface, cases)), Exception),
        _query(GEOMETRY, lambda: _by_value(layer_map, _geometry(meta, interface, layer_map)), GeometryError),
        _query(ONNX, lambda: _inferred(_onnx_inference(_without_shapes(model)), cases), onnx_error),
        _symbolic(_without_shapes(model), cases),
    ]


def _query(name: str, source: Callable[[], Shapes], *errors: type[Exception]) -> Witness:
    """Return the source's shapes, or its error if it raises one of `errors`."""
    try:
        return Witness(name, source())
    except errors as error:
        return Witness(name, {}, " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__)


def _runtime(model: onnx.ModelProto, interface: Interface, cases: Sequence[Case]) -> Shapes:
    runtime = StagedRuntime(model)
    shapes: defaultdict[str, dict[Case, Shape]] = defaultdict(dict)
    for case in cases:
        for values in runtime.run(interface.at(*case.size).noise(case.batch)):
            for name, value in values.items():
                shapes[name][case] = value.shape
    return shapes


def _pytorch(meta: nn.Module, interface: Interface, cases: Sequence[Case]) -> Shapes:
    """Return the shapes of the modules' outputs on the meta device, by layer name."""
    arguments = {case: interface.at(*case.size).example(case.batch).to_meta() for case in cases}
    shapes = {case: dict(layer_shapes(meta, arguments[case])) for case in cases}
    return {name: {case: shapes[case][name] for case in cases} for name in shapes[cases[0]]}


def _geometry(meta: nn.Module, interface: Interface, layer_map: manifest.LayerMap) -> Shapes:
    """Return the shapes by zoo's arithmetic at batch 1, by layer name; write the receptive fields into `layer_map`."""
    if not interface.sizes[0]:
        raise GeometryError("its rules are for networks with one image as their input")
    input_shapes = {size: interface.at(*size).example(1).leaves[0].shape[1:] for size in interface.sizes}
    geometries = {Case(1, size): measure(meta, shape) for size, shape in input_shapes.items()}
    add_receptive_fields(layer_map, next(iter(geometries.values())))
    shapes: defaultdict[str, dict[Case, Shape]] = defaultdict(dict)
    for case, geometry in geometries.items():
        for layer in geometry.layers:
            for element, shape in enumerate(layer.outputs):
                if shape is not None:
                    shapes[layer_name(layer.path, layer.call, element)][case] = shape
    return shapes


def _symbolic(model: onnx.ModelProto, cases: Sequence[Case]) -> Witness:
    result = symbolic_shapes.infer(model)
    return Witness(SYMBOLIC, _inferred(result.infos, cases), result.failure[:MAX_MESSAGE])


def _onnx_inference(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    return [*graph.value_info, *graph.output]


def _by_value(layer_map: manifest.LayerMap, shapes: Shapes) -> Shapes:
    """Convert shapes by layer name to shapes by the name of the layer's value."""
    return {layer.value: shapes[layer.name] for layer in layer_map.layers if layer.value and layer.name in shapes}


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the exporter's shapes, and without weights, which do not affect shapes."""
    bare = weightless(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    return bare


def _inferred(infos: Sequence[onnx.ValueInfoProto], cases: Sequence[Case]) -> Shapes:
    return {
        info.name: {case: tuple(_dimensions(info, case)) for case in cases}
        for info in infos
        if info.type.tensor_type.HasField("shape")
    }


def _dimensions(info: onnx.ValueInfoProto, case: Case) -> Iterator[int | None]:
    sizes = {BATCH: case.batch, **dict(zip((HEIGHT, WIDTH), case.size, strict=False))}
    for dim in info.type.tensor_type.shape.dim:
        yield dim.dim_value if dim.HasField("dim_value") else evaluate(dim.dim_param, sizes)
