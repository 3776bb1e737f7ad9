"""Asks independent witnesses for every shape.

The exporter writes PyTorch's own shapes into the file, so a reader of the file only hears PyTorch again. Here those are
stripped first, and witnesses that do not know of each other are asked:

    pytorch    the network on the meta device: no numbers, only shapes
    geometry   closed-form arithmetic of the layers, from zoo.geometry
    onnx       ONNX's strict shape inference with data propagation
    symbolic   onnxruntime's symbolic shape inference
    runtime    what onnxruntime really computes

Each says what shape a value has at batches 1 and 3, and at two heights and widths where those are free; a size that
cannot be worked out from these is no evidence.

Requires: a model whose layer map names the value of each module's output.
Ensures: no two witnesses contradict each other. A module's output is verified by pytorch, runtime and one more; another
value by runtime and one more. What has fewer is listed, never called verified.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import nn

from export.errors import ShapeError
from export.interface.interface import Interface
from export.names import BATCH, HEIGHT, WIDTH, layer_name
from export.onnx_model.external_data import weightless
from export.onnx_model.runtime import Runtime, every_value
from export.tracing.meta_device import without_numbers
from export.tracing.trace import shapes
from export.verify import symbolic_shapes
from export.verify.dim_expr import evaluate
from export.verify.receptive_fields import note_fields
from protos import manifest
from zoo.errors import GeometryError
from zoo.geometry.measure import measure

BATCHES = (1, 3)
NOTHING_WHOLE = "it works out no shape to the end from the sizes that are free"
PYTORCH, GEOMETRY, ONNX, SYMBOLIC, RUNTIME = "pytorch", "geometry", "onnx", "symbolic", "runtime"

Shape = tuple[int | None, ...]  # None: no evidence


@dataclass(frozen=True)
class Case:
    """The input for which shapes are said."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"batch {self.batch} of {self.height}x{self.width}"


Testimony = Mapping[str, Mapping[Case, Shape]]  # of each value, in each case


@dataclass(frozen=True)
class Witness:
    """What one witness says of the graph's values; `silent_because` where it could say nothing, or no more."""

    name: str
    says: Testimony
    silent_because: str = ""


def check_shapes(
    model: onnx.ModelProto, network: nn.Module, layer_map: manifest.LayerMap, interface: Interface
) -> manifest.Shapes:
    """Hear all witnesses, and write the verdict on each layer into `layer_map`. Raises: ShapeError."""
    cases = [Case(batch, *size) for size in interface.sizes for batch in BATCHES]
    meta = without_numbers(network)
    witnesses = [
        Witness(RUNTIME, _runtime(model, interface, cases)),
        _heard(PYTORCH, lambda: _by_value(layer_map, _pytorch(meta, interface, cases)), Exception),
        _heard(GEOMETRY, lambda: _by_value(layer_map, _geometry(meta, interface, layer_map)), GeometryError),
        _heard(ONNX, lambda: _inferred(_onnx_inference(_stripped(model)), cases), onnx.shape_inference.InferenceError),
        _symbolic_inference(_stripped(model), cases),
    ]
    names = {layer.value: layer.name for layer in reversed(layer_map.layers) if layer.value}
    agreeing = {value: _agreement(value, names.get(value, ""), witnesses) for value in witnesses[0].says}
    for layer in layer_map.layers:
        layer.shape_witnesses[:] = agreeing.get(layer.value, [])
    return _verdict(agreeing, set(names), witnesses)


def _verdict(agreeing: Mapping[str, list[str]], outputs: set[str], witnesses: list[Witness]) -> manifest.Shapes:
    verified = {value for value, heard in agreeing.items() if _is_verified(heard, value in outputs)}
    return manifest.Shapes(
        module_outputs=len(outputs),
        module_outputs_verified=len(verified & outputs),
        other_values=len(agreeing.keys() - outputs),
        other_values_verified=len(verified - outputs),
        unverified=[value for value in agreeing if value not in verified],
        witnesses=[_told(witness, agreeing) for witness in witnesses],
    )


def _told(witness: Witness, agreeing: Mapping[str, list[str]]) -> manifest.ShapeWitness:
    known = sum(witness.name in heard for heard in agreeing.values())
    why = witness.silent_because or ("" if known else NOTHING_WHOLE)
    return manifest.ShapeWitness(name=witness.name, values=known, silent_because=why)


def _is_verified(heard: list[str], is_module_output: bool) -> bool:
    needed = {RUNTIME, PYTORCH} if is_module_output else {RUNTIME}
    return needed <= set(heard) and len(heard) > len(needed)


def _agreement(value: str, layer: str, witnesses: list[Witness]) -> list[str]:
    """Return the witnesses that know the whole shape of `value`. Raises: ShapeError when two contradict each other."""
    said = {witness.name: witness.says[value] for witness in witnesses if value in witness.says}
    reference = said[RUNTIME]
    for sizes in said.values():
        for case, shape in sizes.items():
            if not _compatible(shape, reference[case]):
                raise ShapeError(_contradiction(value, layer, case, said))
    return [name for name, sizes in said.items() if all(None not in shape for shape in sizes.values())]


def _compatible(shape: Shape, other: Shape) -> bool:
    if len(shape) != len(other):
        return False
    return all(a is None or b is None or a == b for a, b in zip(shape, other, strict=True))


def _contradiction(value: str, layer: str, case: Case, said: Testimony) -> str:
    where = f"layer '{layer}' (value '{value}')" if layer else f"value '{value}'"
    words = "; ".join(f"{name} says {list(sizes[case])}" for name, sizes in said.items() if case in sizes)
    return f"the witnesses disagree on the shape of {where} at {case}: {words}. Nothing was written."


def _heard(name: str, ask: Callable[[], Testimony], *unable: type[Exception]) -> Witness:
    """Ask a witness that may be `unable` to speak: it then is silent, which the verdict says."""
    try:
        return Witness(name, ask())
    except unable as error:
        return Witness(name, {}, " ".join(str(error).split())[:200] or type(error).__name__)


def _runtime(model: onnx.ModelProto, interface: Interface, cases: Sequence[Case]) -> Testimony:
    values = every_value(model)
    runtime = Runtime(model, values, optimise=False)
    ran = {
        case: runtime.run({interface.input_name: interface.at(case.height, case.width).noise(case.batch)})
        for case in cases
    }
    arrays = [value for value in values if isinstance(ran[cases[0]][value], np.ndarray)]  # a sequence has no shape
    return {value: {case: ran[case][value].shape for case in cases} for value in arrays}


def _pytorch(meta: nn.Module, interface: Interface, cases: Sequence[Case]) -> Testimony:
    """What each module gives on the meta device, by layer name."""
    channels = interface.input_size[0]
    inputs = {case: torch.empty(case.batch, channels, case.height, case.width, device="meta") for case in cases}
    heard = {case: dict(shapes(meta, x)) for case, x in inputs.items()}
    return {name: {case: heard[case][name] for case in cases} for name in heard[cases[0]]}


def _geometry(meta: nn.Module, interface: Interface, layer_map: manifest.LayerMap) -> Testimony:
    """What zoo's arithmetic says, at batch 1, by layer name. What a unit sees comes with it, into `layer_map`."""
    channels = interface.input_size[0]
    measured = {Case(1, *size): measure(meta, (channels, *size)) for size in interface.sizes}
    note_fields(layer_map, next(iter(measured.values())))
    heard: defaultdict[str, dict[Case, Shape]] = defaultdict(dict)
    for case, geometry in measured.items():
        for layer in geometry.layers:
            for element, shape in enumerate(layer.outputs):
                if shape is not None:
                    heard[layer_name(layer.path, layer.call, element)][case] = shape
    return heard


def _by_value(layer_map: manifest.LayerMap, testimony: Testimony) -> Testimony:
    """Turn what is said of layers into what is said of the values that hold them."""
    return {layer.value: testimony[layer.name] for layer in layer_map.layers if layer.value and layer.name in testimony}


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without any shape that the exporter filled in, and without weights, which have nothing to say."""
    bare = weightless(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    return bare


def _onnx_inference(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    return [*graph.value_info, *graph.output]


def _symbolic_inference(model: onnx.ModelProto, cases: Sequence[Case]) -> Witness:
    found = symbolic_shapes.infer(model)
    return Witness(SYMBOLIC, _inferred(found.infos, cases), found.gave_up[:200])


def _inferred(infos: Sequence[onnx.ValueInfoProto], cases: Sequence[Case]) -> Testimony:
    return {
        info.name: {case: tuple(_sizes(info, case)) for case in cases}
        for info in infos
        if info.type.tensor_type.HasField("shape")
    }


def _sizes(info: onnx.ValueInfoProto, case: Case) -> Iterator[int | None]:
    named = {BATCH: case.batch, HEIGHT: case.height, WIDTH: case.width}
    for dim in info.type.tensor_type.shape.dim:
        yield dim.dim_value if dim.HasField("dim_value") else evaluate(dim.dim_param, named)
