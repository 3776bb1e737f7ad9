"""The whole way, in order: prepare, convert, attach, map, check, write. Nothing is written before all checks hold."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper
from torch import nn

from export.artifact import config_pbtxt, repository
from export.artifact.manifest import Found, manifest_of
from export.artifact.manifest_json import seal, to_json
from export.artifact.metadata import stamp, strip
from export.artifact.report import write_report
from export.convert.convert import convert
from export.convert.prepare import prepare, require_free_size
from export.convert.taps import before_norms
from export.errors import ConversionError, ExportError, SettingsError
from export.interface.head import head_of
from export.interface.interface import Interface, interface_of, require_any_size
from export.interface.signature import contract_of
from export.names import MODEL, WEIGHTS
from export.onnx_model import external_data
from export.onnx_model.rename import name_values
from export.reference.determinism import expectations, require_deterministic, telling
from export.reference.expected import SECOND, ReferenceRuns
from export.settings import ExportSettings
from export.source.module import loaded_module
from export.timing import Progress, Steps
from export.verify.layer_map import map_layers
from export.verify.parity import check_numbers
from export.verify.shapes import check_shapes
from protos import manifest
from zoo import LoadedNetwork
from zoo.networks.preprocessing import Preprocessing


@dataclass(frozen=True)
class Exported:
    """A version that was checked and written."""

    folder: Path
    version: int
    manifest: manifest.Manifest
    nodes: int
    model_bytes: int
    report: Path


def export_model(
    network: LoadedNetwork | nn.Module,
    settings: ExportSettings,
    progress: Progress = lambda step: None,
    *,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
) -> Exported:
    """Convert `network`, check the result against PyTorch, and write it as a new version of `settings.name`.

    What `load_network` returns has its preprocessing and labels; for any other module they are given here, the
    preprocessing unless timm's `pretrained_cfg` tells it. `progress` hears the name of each step as it begins.

    Raises: ExportError; the repository is then as it was.
    """
    if isinstance(network, LoadedNetwork):
        if preprocessing is not None or labels:
            raise SettingsError("a loaded network has its own preprocessing and labels: use dataclasses.replace on it.")
        return _export(network, settings, progress)
    return _export(loaded_module(network, preprocessing, labels), settings, progress)


def _export(given: LoadedNetwork, settings: ExportSettings, hear: Progress) -> Exported:
    progress = Steps(hear)
    repository.require_writable(settings.to / settings.name)
    progress("preparing the network")
    network, interface, expected = _prepared(given, settings)
    contract = contract_of(interface, [each.given.outputs for each in expected], given.labels)
    shared = config_pbtxt.shared_files(settings, contract)
    repository.require_same(settings.to / settings.name, shared)
    progress("converting to ONNX")
    model = _convert(network, expected, interface, settings)
    progress("running PyTorch in float64")  # after the conversion, which says where a forward decides by the values
    expected = telling(expected)
    for each in expected:
        require_deterministic(each)
    with _speaking_of_sizes(settings):
        found = _checked(model, network, expected, interface, progress)
    strip(model)
    stamp(model, found.layer_map, contract.labels, contract.preprocessing)
    progress("writing")
    promise = manifest_of(given, settings, contract, interface, model, found)
    files = {**external_data.contents(model), **_test_data(expected[0])}
    folder = _write(settings, shared, files, promise)
    report = write_report(settings.to, int(folder.name), promise, progress.seconds())
    model_bytes = sum(len(files[name]) for name in (MODEL, WEIGHTS) if name in files)
    return Exported(folder, int(folder.name), promise, len(model.graph.node), model_bytes, report)


def _prepared(given: LoadedNetwork, settings: ExportSettings) -> tuple[nn.Module, Interface, list[ReferenceRuns]]:
    network = prepare(given.network)
    if settings.dynamic_size:
        require_free_size(network)
    interface = interface_of(network, given.preprocessing, settings, head_of(given, settings.calibrated))
    return network, interface, expectations(network, interface)


@contextlib.contextmanager
def _speaking_of_sizes(settings: ExportSettings) -> Iterator[None]:
    """Say in each error that the sizes were to be free, where they were: that is why most such files are refused."""
    try:
        yield
    except ExportError as error:
        if not settings.dynamic_size:
            raise
        raise type(error)(f"the input's height and width cannot be free: {error}") from error


def _checked(
    model: onnx.ModelProto,
    network: nn.Module,
    expected: Sequence[ReferenceRuns],
    interface: Interface,
    progress: Progress,
) -> Found:
    """What mapping and checking found; the values of `model` are then named after the layers."""
    progress("finding every layer in the file")
    layer_map = map_layers(model, network, expected)
    name_values(model, layer_map)
    progress("asking witnesses for every shape")
    shapes = check_shapes(model, network, layer_map, interface)
    progress("comparing with PyTorch")
    return Found(layer_map, shapes, check_numbers(model, layer_map, expected), expected[0].kinds)


def _convert(
    network: nn.Module, expected: Sequence[ReferenceRuns], interface: Interface, settings: ExportSettings
) -> onnx.ModelProto:
    last = expected[-1]
    taps = before_norms(network, list(last.second.layers.values())) if settings.taps else ()
    try:
        size, free = last.interface.input_size, settings.dynamic_size
        model = convert(network, size, settings.opset, interface.net_outputs, taps, dynamic_size=free)
    except ConversionError:
        if free:
            require_any_size(network, interface.input_size)  # which names the layer
        raise
    whole = interface.attach(model)
    _require_valid(whole)
    return whole


def _require_valid(model: onnx.ModelProto) -> None:
    try:
        external_data.check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"torch.onnx wrote a model that ONNX's own checker refuses: {error}") from error


def _write(
    settings: ExportSettings, shared: dict[str, bytes], files: dict[str, bytes], promise: manifest.Manifest
) -> Path:
    seal(promise, {**files, **{f"../{name}": each for name, each in shared.items()}})
    target = settings.to / settings.name
    return repository.write_version(target, shared, {**files, "manifest.json": to_json(promise).encode()})


def _test_data(expected: ReferenceRuns) -> dict[str, bytes]:
    """One batch and what PyTorch makes of it, in the layout of ONNX's own backend tests."""
    named = {"input_0": (expected.interface.input_name, expected.inputs(SECOND))}
    outputs = expected.second.outputs
    named |= {f"output_{index}": (name, each.numpy()) for index, (name, each) in enumerate(outputs.items())}
    return {
        f"test_data_set_0/{file}.pb": numpy_helper.from_array(array, name).SerializeToString(deterministic=True)
        for file, (name, array) in named.items()
    }
