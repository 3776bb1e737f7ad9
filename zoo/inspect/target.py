"""What `describe` and `compare` look at: a network without data, by its name, its run or its export."""

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
from zoo.storage.atomic_io import standing_folder
from zoo.transfer.heads import attach_head

Shape = tuple[int, ...]
NEAR = 16
GRID = 32


@dataclass(frozen=True, eq=False)
class Subject:
    """A network on the meta device and the input it is made for, (C, *axes).

    `exported` has the layer map's entry for each layer's name where the network comes from an export. A stride that
    leaves out rows is an error in a network of ours (`is_ours`), and shown as a warning in a backbone.
    """

    name: str
    architecture: str
    network: nn.Module
    input_size: Shape
    exported: Mapping[str, manifest.Layer] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.architecture in CATALOG

    def geometry(self, input_size: Shape | None = None) -> Geometry:
        """Every layer at `input_size`, or at the size the network is made for.

        Raises:
            GeometryError: the network refuses that size, or a stride of a network of ours does not fit it.
        """
        asked = input_size or self.input_size
        self._check_channels(asked)
        try:
            found = measure(self.network, asked)
        except GeometryError as error:
            where = f" in layer '{error.layer}'" if error.layer else ""
            raise self._misfit(f"{self.name} refuses an input of {by(asked)}{where}: {error}", asked) from error
        bad = self._illegal(found)
        if bad:
            raise self._misfit(f"{_loss(bad)} when {self.name} gets an input of {by(asked)}", asked)
        return found

    def _illegal(self, geometry: Geometry) -> Layer | None:
        return next((layer for layer in geometry.sliding if layer.lost), None) if self.is_ours else None

    def _check_channels(self, input_size: Shape) -> None:
        if len(input_size) != len(self.input_size):
            raise GeometryError(f"{self.name} takes an input like {by(self.input_size)}; got {by(input_size)}")
        own, came = self.input_size[0], input_size[0]
        if own != came:
            first = config_of(self.network).get("first_conv")
            where = f" (layer '{first}')" if isinstance(first, str) else ""
            raise GeometryError(f"{self.name} takes {own} channel{'s' * (own != 1)}{where}; the input has {came}")

    def _misfit(self, message: str, asked: Shape) -> GeometryError:
        near = [by(size) for size in self._near(asked)]
        fitting = f"sizes nearby that fit: {' and '.join(near)}" if near else f"it is made for {by(self.input_size)}"
        return GeometryError(f"{message}; {fitting}")

    def _near(self, asked: Shape) -> Iterator[Shape]:
        """The nearest smaller and the nearest larger input that fit."""
        for sign in (-1, 1):
            sizes = (size for size in _candidates(asked, self.input_size) if sign * (sum(size) - sum(asked)) > 0)
            found = next((size for size in sizes if self._fits(size)), None)
            if found:
                yield found

    def _fits(self, size: Shape) -> bool:
        try:
            return not self._illegal(measure(self.network, size))
        except GeometryError:
            return False


def by(size: Sequence[int]) -> str:
    """A size as people write it: 3x224x224."""
    return "x".join(map(str, size))


def subject_of(source: str) -> Subject:
    """The network that `source` names: a name of the catalog or of timm, a run's folder, or an exported model's.

    Raises:
        UnknownNetworkError: no network has that name.
        CheckpointError: a folder holds neither a run nor an export.
    """
    folder = standing_folder(Path(source))
    file = _manifest_file(folder)
    if file:
        return _exported(file)
    if folder.exists() or "/" in source:
        loaded = load_network(source)
        return Subject(loaded.name, loaded.architecture, loaded.network.to("meta"), _input_size(loaded.network))
    network = on_meta(lambda: create_model(source))
    return Subject(source, source, network, _input_size(network))


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without data, in eval mode; where its construction needs numbers, build it whole first."""
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
    """The manifest of an exported model's newest version, or of the version that `folder` is."""
    if (folder / "manifest.json").exists():
        return folder / "manifest.json"
    versions = [file for file in folder.glob("*/manifest.json") if file.parent.name.isdecimal()]
    return max(versions, key=lambda file: int(file.parent.name), default=None)


def _exported(file: Path) -> Subject:
    try:
        promise = json_format.Parse(file.read_text(encoding="utf-8"), manifest.Manifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not a manifest of zoonnx: {error}") from error
    rule = promise.preprocessing
    if not promise.source.net or ":" in promise.source.net:
        raise CheckpointError(
            f"{promise.name} was exported from {promise.source.net or 'a program'}, whose network is not known here; "
            f"its layers stand in {file}, and in reports/ beside the repository"
        )
    network = on_meta(lambda: _net_of(promise))
    layers = {layer.name: layer for layer in promise.layer_map.layers}
    return Subject(promise.name, promise.source.net, network, (rule.channels, rule.height, rule.width), layers)


def _net_of(promise: manifest.Manifest) -> nn.Module:
    """The network that was exported, a headed backbone where its layers say so."""
    classes, channels = promise.outputs[0].shape[-1], promise.preprocessing.channels
    kinds = {layer.path: layer.kind for layer in promise.layer_map.layers}
    head = _head_of(kinds)
    if head is None:
        return create_model(promise.source.net, num_classes=classes, in_chans=channels)
    rule = promise.preprocessing
    size = (rule.height, rule.width)
    network = create_model(promise.source.net, in_chans=channels, img_size=size if head == "flat" else None)
    for path, kind in kinds.items():
        if kind == Removed.__name__:
            network.set_submodule(path.removeprefix("backbone."), Removed())
    return attach_head(network, head, classes)


def _head_of(kinds: Mapping[str, str]) -> Head | None:
    """Which of heads.py's a network has, by the class of each of its modules."""
    if kinds.get("head.fc") is None or not any(path.startswith("backbone.") for path in kinds):
        return None
    if "head.score.weight" in kinds:
        return "attention"
    if kinds["head.fc"] == "Conv2d":
        return "conv1x1"
    if "head.flatten" in kinds:
        return "flat"
    return "mlp" if "head.hidden" in kinds else "linear"


def _candidates(asked: Shape, own: Shape) -> list[Shape]:
    """Sizes to try, the nearest first: some rows more or less, the next round numbers, and what the network is made for."""
    longest = max(asked[1:])
    rounds = {longest // GRID * GRID - longest, -(-longest // GRID) * GRID - longest}
    deltas = {*range(-NEAR, NEAR + 1), *rounds}
    free = [size > 1 for size in own[1:]]  # a signal is an image of height 1
    grown = [[size + delta * may for size, may in zip(asked[1:], free, strict=True)] for delta in deltas]
    sizes = {(asked[0], *each) for each in grown} | {own}
    return sorted((size for size in sizes if min(size) > 0), key=lambda size: abs(sum(size) - sum(asked)))


def _loss(layer: Layer) -> str:
    window = max(layer.windows, key=lambda window: window.lost)
    rows = "row" if window.lost == 1 else "rows"
    return (
        f"layer '{layer.name}' leaves out the last {window.lost} {rows} of the {window.rows} it gets "
        f"({window.taps} taps in strides of {window.stride})"
    )
