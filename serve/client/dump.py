"""Writes down what the layers of a model gave for images: all of it as safetensors, the first as a contact sheet."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from serve.client import images
from serve.client.classify import rule_of
from serve.client.contact_sheet import contact_sheet
from serve.client.model_info import LayerInfo, require_fetchable
from serve.client.sync import Client
from serve.errors import NoSuchLayerError, OutputFileError
from serve.wire.tensors import Array

BATCH = 8  # images a request: every layer of 8 images of a large network is about 1 GB
PROBABILITIES = "probabilities"
SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class Dump:
    """What came back for some images. `first` is the first of them, as the model got it.

    `layers` are in the order of the network's calls: what each gave, images first, or, where it is not in the file, the
    words that say where it went. `twins` are layers that are the same tensor as an earlier one, which they name.
    """

    model: str
    version: str
    files: Sequence[Path]
    first: images.Pixels
    layers: Mapping[str, Array | str]
    twins: Mapping[str, str]
    probabilities: Array
    labels: Sequence[str]

    @property
    def arrays(self) -> dict[str, Array]:
        """The layers that are in the file."""
        return {name: each for name, each in self.layers.items() if not isinstance(each, str)}


def dump(
    client: Client, model: str, files: Sequence[Path], patterns: Sequence[str], advance: Callable[[int], None]
) -> Dump:
    """Ask for the layers that match any of the globs `patterns`; `advance` is told how many images are done.

    Raises:
        NoSuchLayerError: no layer matches, or none that does is in the file.
        UnsupportedModelError: the model does not say how to prepare images.
        ImageError: a file is not an image.
    """
    info = client.model(model)
    rule, chosen = rule_of(info), _chosen(client, model, patterns, info.version)
    there = [layer for layer in chosen if layer.fetchable]
    size = BATCH if all(layer.batch_first for layer in there) else 1
    firsts, parts = [], []
    for start in range(0, len(files), size):
        batch = np.stack([images.load(file, rule) for file in files[start : start + size]])
        wanted = [PROBABILITIES, *(layer.name for layer in there)]
        parts.append(client.infer(model, {info.inputs[0].name: batch}, wanted, info.version))
        firsts.append(batch[0])
        advance(len(batch))
    layers = {layer.name: _joined(layer, parts) if layer.fetchable else layer.whereabouts for layer in chosen}
    shares = np.concatenate([part[PROBABILITIES] for part in parts])
    return Dump(model, info.version, files, firsts[0], layers, _twins(there), shares, info.labels)


def save(found: Dump, out: Path) -> Path:
    """Write `out`, a .safetensors file, and the first image's contact sheet beside it; returns the sheet's path.

    Raises:
        OutputFileError: a file cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    if out.suffix != SUFFIX:
        raise OutputFileError(f"{out} must end in {SUFFIX}: that is the format of the file.")
    about = {"model": found.model, "version": found.version, "files": [str(file) for file in found.files]}
    note = {"zoonnx": json.dumps(about)}  # one entry: several would be written in any order
    rows = {name: _row(found, name) for name in found.layers}
    sheet = contact_sheet(found.first, rows, found.probabilities[0].tolist(), found.labels)
    _write(out, lambda path: path.write_bytes(to_bytes(found.arrays, note)))
    sheet_file = out.with_suffix(".png")
    _write(sheet_file, lambda path: sheet.save(path, "PNG"))
    return sheet_file


def _row(found: Dump, name: str) -> Array | str:
    """What the sheet shows of a layer: the first image's response, or words."""
    response = found.layers[name]
    if isinstance(response, str):
        return response
    return f"same tensor as {found.twins[name]}" if name in found.twins else response[0]


def _twins(layers: Sequence[LayerInfo]) -> dict[str, str]:
    first: dict[str, str] = {}
    for layer in layers:
        first.setdefault(layer.value, layer.name)
    return {layer.name: first[layer.value] for layer in layers if first[layer.value] != layer.name}


def _joined(layer: LayerInfo, parts: Sequence[Mapping[str, Array]]) -> Array:
    """Put the answers for some images after each other; a layer without a batch of its own gets one."""
    arrays = [part[layer.name] for part in parts]
    return np.concatenate(arrays) if layer.batch_first else np.stack(arrays)


def _chosen(client: Client, model: str, patterns: Sequence[str], version: str) -> list[LayerInfo]:
    """The layers that match, each once, in the order of the network's calls; each pattern must match something."""
    layers = client.layers(model, version=version)
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            known = ", ".join(layer.name for layer in layers[:8])
            raise NoSuchLayerError(f"no layer of model '{model}' matches '{pattern}'; its first layers are {known}.")
    chosen = [layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]
    require_fetchable(chosen)
    return chosen


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: nobody sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        try:
            write(Path(name))
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputFileError(f"cannot write {path}: {error.strerror or error}.") from error
