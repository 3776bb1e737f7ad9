"""Networks to describe or compare, found by name, run or export, and built without data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from google.protobuf import json_format
from torch import nn

from protos import manifest
from zoo.catalog import CATALOG, create_model
from zoo.errors import CheckpointError, GeometryError
from zoo.geometry.measure import Geometry, Layer, measure
from zoo.layers import Removed
from zoo.networks.timm_config import config_of
from zoo.runs.load import load_network
from zoo.settings import Head
from zoo.storage.atomic_io import folder_or_backup
from zoo.transfer.heads import attach_head

Shape = tuple[int, ...]

MAX_ROWS_APART = 16  # from a size that does not fit to the nearby sizes to try
ROUND_TO = 32  # multiples of this are also tried


@dataclass(frozen=True, eq=False)
class InspectionTarget:
    """A network on the meta device.

    Attributes:
        name: the network's, run's or model's name.
        architecture: its name in the catalog or in timm.
        network: the module.
        input_size: its default input, (C, *axes).
        exported: the layer map's entry for each layer's name; empty unless the network comes from an export.
    """

    name: str
    architecture: str
    network: nn.Module
    input_size: Shape
    exported: Mapping[str, manifest.Layer] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether the network is in the catalog: a stride that drops input rows is then an error."""
        return self.architecture in CATALOG

    def geometry(self, input_size: Shape | None = None) -> Geometry:
        """Return the geometry at `input_size`, or at the default input size.

        Raises:
            GeometryError: the network does not accept that size, or a stride of one of our networks drops input rows.
        """
        size = input_size or self.input_size
        self._check_channels(size)
        try:
            geometry = measure(self.network, size)
        except GeometryError as error:
            where = f" in layer '{error.layer}'" if error.layer else ""
            message = f"{self.name} does not accept an input of {size_text(size)}{where}: {error}"
            raise self._size_error(message, size) from error
        inexact = self._inexact_layer(geometry)
        if inexact:
            raise self._size_error(_loss_text(inexact, self.name, size), size)
        return geometry

    def _inexact_layer(self, geometry: Geometry) -> Layer | None:
        return next((layer for layer in geometry.sliding if layer.lost), None) if self.is_ours else None

    def _check_channels(self, size: Shape) -> None:
        if len(size) != len(self.input_size):
            raise GeometryError(
                f"{self.name} expects an input like {size_text(self.input_size)}; got {size_text(size)}"
            )
        channels = self.input_size[0]
        if size[0] != channels:
            first = config_of(self.network).get("first_conv")
            where = f" (layer '{first}')" if isinstance(first, str) else ""
            plural = "s" * (channels != 1)
            raise GeometryError(f"{self.name} expects {channels} channel{plural}{where}; the input has {size[0]}")

    def _size_error(self, message: str, size: Shape) -> GeometryError:
        nearby = " and ".join(map(size_text, self._nearest_fitting(size)))
        hint = f"nearby sizes that fit: {nearby}" if nearby else f"its default size is {size_text(self.input_size)}"
        return GeometryError(f"{message}; {hint}")

    def _nearest_fitting(self, size: Shape) -> Iterator[Shape]:
        """Yield the nearest smaller and the nearest larger input that fit."""
        candidates = _candidates(size, self.input_size)
        for sign in (-1, 1):
            on_this_side = (candidate for candidate in candidates if sign * (sum(candidate) - sum(size)) > 0)
            nearest = next((candidate for candidate in on_this_side if self._fits(candidate)), None)
            if nearest:
                yield nearest

    def _fits(self, size: Shape) -> bool:
        try:
            return not self._inexact_layer(measure(self.network, size))
        except GeometryError:
            return False


def size_text(size: Sequence[int]) -> str:
    """Return a size in the form 3x224x224."""
    return "x".join(map(str, size))


def find_target(source: str) -> InspectionTarget:
    """Find a network by its name in the catalog or in timm, or in the folder of a run or an exported model.

    Raises:
        UnknownNetworkError: there is no network of that name.
        CheckpointError: the folder contains neither a run nor an export.
    """
    folder = folder_or_backup(Path(source))
    file = _manifest_file(folder)
    if file:
        return _from_export(file)
    if folder.exists() or "/" in source:
        loaded = load_network(source)
        return InspectionTarget(
            loaded.name, loaded.architecture, loaded.network.to("meta"), _input_size(loaded.network)
        )
    network = on_meta(lambda: create_model(source))
    return InspectionTarget(source, source, network, _input_size(network))


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, in eval mode.

    A network whose construction needs the values of tensors is built on the CPU first.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = build()
        except (NotImplementedError, RuntimeError):
            network = build()
    return network.to("meta").eval()


def _input_size(network: nn.Module) -> Shape:
    return tuple(config_of(network)["input_size"])


def _manifest_file(folder: Path) -> Path | None:
    """Return the manifest in `folder`, or that of the newest version in it, or None."""
    if (folder / "manifest.json").exists():
        return folder / "manifest.json"
    versions = [file for file in folder.glob("*/manifest.json") if file.parent.name.isdecimal()]
    return max(versions, key=lambda file: int(file.parent.name), default=None)


def _from_export(file: Path) -> InspectionTarget:
    try:
        model_manifest = json_format.Parse(file.read_text(encoding="utf-8"), manifest.Manifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not a manifest of zoonnx: {error}") from error
    name, architecture = model_manifest.name, model_manifest.source.net
    if not architecture or ":" in architecture:
        raise CheckpointError(
            f"{name} was exported from {architecture or 'a program'}, a network that cannot be built here; "
            f"its layers are listed in {file}, and in reports/ beside the repository"
        )
    network = on_meta(lambda: _rebuild(model_manifest))
    layers = {layer.name: layer for layer in model_manifest.layer_map.layers if layer.path}
    return InspectionTarget(name, architecture, network, _exported_size(model_manifest) or _input_size(network), layers)


def _exported_size(model_manifest: manifest.Manifest) -> Shape | None:
    """Return the input size of an exported network, (C, *axes); None if it is dynamic and was not recorded."""
    preprocessing = model_manifest.preprocessing
    if preprocessing.channels:
        return (preprocessing.channels, preprocessing.height, preprocessing.width)
    size = tuple(model_manifest.inputs[0].shape[1:])
    return size if min(size, default=0) > 0 else None


def _rebuild(model_manifest: manifest.Manifest) -> nn.Module:
    """Build the network that was exported; if it is a backbone with a head of ours, its layers show which."""
    architecture, size = model_manifest.source.net, _exported_size(model_manifest)
    channels = model_manifest.preprocessing.channels or model_manifest.inputs[0].shape[1]
    image = (size[1], size[2]) if size and len(size) == 3 else None
    classes = model_manifest.outputs[0].shape[-1]
    kinds = {layer.path: layer.kind for layer in model_manifest.layer_map.layers}
    head = _head_of(kinds)
    if head is None:
        return create_model(architecture, num_classes=classes, in_chans=channels, img_size=image)
    network = create_model(architecture, in_chans=channels, img_size=image)
    for path, kind in kinds.items():
        if kind == Removed.__name__:
            network.set_submodule(path.removeprefix("backbone."), Removed())
    return attach_head(network, head, classes)


def _head_of(kinds: Mapping[str, str]) -> Head | None:
    """Return which head of zoo.transfer.heads a network has, from the class name of each module; None without one."""
    if kinds.get("head.fc") is None or not any(path.startswith("backbone.") for path in kinds):
        return None
    if "head.score.weight" in kinds:
        return "attention"
    if kinds["head.fc"] == "Conv2d":
        return "conv1x1"
    if "head.flatten" in kinds:
        return "flat"
    return "mlp" if "head.hidden" in kinds else "linear"


def _candidates(size: Shape, default: Shape) -> list[Shape]:
    """Return sizes to try, the nearest first: a few rows apart, multiples of ROUND_TO, and the default size."""
    longest = max(size[1:])
    multiples = {longest // ROUND_TO * ROUND_TO - longest, -(-longest // ROUND_TO) * ROUND_TO - longest}
    deltas = {*range(-MAX_ROWS_APART, MAX_ROWS_APART + 1), *multiples}
    changeable = [rows > 1 for rows in default[1:]]  # a signal is an image of height 1
    resized = [
        [rows + delta * may_change for rows, may_change in zip(size[1:], changeable, strict=True)] for delta in deltas
    ]
    candidates = {(size[0], *axes) for axes in resized} | {default}
    positive = (candidate for candidate in candidates if min(candidate) > 0)
    return sorted(positive, key=lambda candidate: abs(sum(candidate) - sum(size)))


def _loss_text(layer: Layer, name: str, size: Shape) -> str:
    window = max(layer.windows, key=lambda window: window.lost)
    return (
        f"layer '{layer.name}' of {name} drops the last {window.lost} of {window.rows} input rows "
        f"at an input of {size_text(size)} (window {window.taps}, stride {window.stride})"
    )
