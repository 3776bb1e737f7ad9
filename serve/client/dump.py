"""Layer outputs of a served model for images or arrays, saved as safetensors, with a contact sheet of the first row."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image

from serve.client import images
from serve.client.array_input import load_arrays
from serve.client.classify import classifier_preprocessing
from serve.client.contact_sheet import contact_sheet
from serve.client.model_info import LayerInfo, ModelInfo, require_fetchable
from serve.client.sync import Client
from serve.errors import NoSuchLayerError, OutputFileError
from serve.wire.tensors import Array

BATCH_SIZE = 8  # rows per request: all layers of a large network for 8 images are about 1 GB
PROBABILITIES = "probabilities"
SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class LayerDump:
    """Layer outputs for some rows: one per image, or those of a file of arrays.

    Attributes:
        model: The model's name.
        version: The version that computed them.
        files: The image files, or the file of arrays.
        first_inputs: The first row of each input; of an image classifier, uint8 (H, W, C).
        layers: Each selected layer, in the order in which the network calls them: its output, rows first, or the
            reason why it is not in the model's file.
        duplicates: For each layer that is the same tensor as an earlier one, the name of the earlier one.
        probabilities: The class probabilities, (rows, classes); None if the model has none.
        labels: The class names, by class index; empty if the model has none.
    """

    model: str
    version: str
    files: Sequence[Path]
    first_inputs: Mapping[str, Array]
    layers: Mapping[str, Array | str]
    duplicates: Mapping[str, str]
    probabilities: Array | None
    labels: Sequence[str]

    @property
    def rows(self) -> int:
        """The number of rows for which the layers were computed."""
        return max((len(output) for output in self.arrays.values()), default=0)

    @property
    def arrays(self) -> dict[str, Array]:
        """The layers that have an output, by name."""
        return {name: output for name, output in self.layers.items() if not isinstance(output, str)}

    @property
    def missing(self) -> dict[str, str]:
        """The reason for each layer that has no output, by name."""
        return {name: reason for name, reason in self.layers.items() if isinstance(reason, str)}


def dump_images(
    client: Client, model: str, files: Sequence[Path], patterns: Sequence[str], advance: Callable[[int], None]
) -> LayerDump:
    """Compute the outputs of the layers whose names match any of the globs `patterns`, for images.

    `advance` is called after each request with the number of images in it.

    Raises:
        NoSuchLayerError: A pattern matches no layer, or no matching layer is in the model's file.
        UnsupportedModelError: The model is not an image classifier, or does not define its preprocessing.
        ImageError: A file is not an image.
    """
    info = client.model(model)
    preprocessing = classifier_preprocessing(info)

    def rows(batch: slice) -> dict[str, Array]:
        return {info.inputs[0].name: np.stack([images.load(file, preprocessing) for file in files[batch]])}

    return _dump(client, info, _Rows(files, len(files), rows), patterns, advance)


def dump_arrays(
    client: Client, model: str, file: Path, patterns: Sequence[str], advance: Callable[[int], None]
) -> LayerDump:
    """Compute the outputs of the layers whose names match any of the globs `patterns`, for the arrays of a .npz file.

    `advance` is called after each request with the number of rows in it.

    Raises:
        NoSuchLayerError: A pattern matches no layer, or no matching layer is in the model's file.
        ArrayFileError: The file cannot be read, or its arrays are not the model's inputs.
    """
    info = client.model(model)
    arrays = load_arrays(file, info)
    count = len(next(iter(arrays.values())))

    def rows(batch: slice) -> dict[str, Array]:
        return {name: array[batch] for name, array in arrays.items()}

    return _dump(client, info, _Rows([file], count, rows), patterns, advance)


@dataclass(frozen=True)
class _Rows:
    """The inputs: the files that they are from, their number, and a function that returns some of them."""

    files: Sequence[Path]
    count: int
    load: Callable[[slice], dict[str, Array]]


def _dump(
    client: Client, info: ModelInfo, rows: _Rows, patterns: Sequence[str], advance: Callable[[int], None]
) -> LayerDump:
    selected = _select_layers(client, info.name, patterns, info.version)
    fetchable = [layer for layer in selected if layer.fetchable]
    batch_size = min(BATCH_SIZE, max(1, info.max_batch_size)) if all(layer.batch_first for layer in fetchable) else 1
    outputs = [PROBABILITIES] if PROBABILITIES in {spec.name for spec in info.outputs} else []
    names = [*outputs, *(layer.name for layer in fetchable)]
    first_inputs: dict[str, Array] = {}
    responses = []
    for start in range(0, rows.count, batch_size):
        batch = rows.load(slice(start, start + batch_size))
        responses.append(client.infer(info.name, batch, names, info.version))
        first_inputs = first_inputs or {name: array[0] for name, array in batch.items()}
        advance(min(batch_size, rows.count - start))
    layers = {
        layer.name: _concatenated(layer, responses) if layer.fetchable else layer.missing_reason for layer in selected
    }
    probabilities = np.concatenate([response[PROBABILITIES] for response in responses]) if outputs else None
    duplicates = _duplicates(fetchable)
    return LayerDump(info.name, info.version, rows.files, first_inputs, layers, duplicates, probabilities, info.labels)


def save(dump: LayerDump, out: Path) -> Path:
    """Write `out`, a .safetensors file, and a contact sheet of the first row beside it; return the sheet's path.

    Raises:
        OutputFileError: `out` has another suffix, or a file cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    if out.suffix != SUFFIX:
        raise OutputFileError(f"{out} must end in {SUFFIX}, the file's format.")
    origin = {"model": dump.model, "version": dump.version, "files": [str(file) for file in dump.files]}
    metadata = {"zoonnx": json.dumps(origin)}  # one entry, because the order of several is not deterministic
    entries = {name: _sheet_entry(dump, name) for name in dump.layers}
    sheet = _sheet(dump, entries)
    _write_atomically(out, lambda path: path.write_bytes(to_bytes(dump.arrays, metadata)))
    sheet_file = out.with_suffix(".png")
    _write_atomically(sheet_file, lambda path: sheet.save(path, "PNG"))
    return sheet_file


def _sheet(dump: LayerDump, layers: Mapping[str, Array | str]) -> Image.Image:
    """Draw the layers below the image and its classes, or below the arrays that are the inputs."""
    first = next(iter(dump.first_inputs.values()))
    if dump.probabilities is not None and len(dump.first_inputs) == 1 and first.dtype == np.uint8:
        return contact_sheet(first, layers, dump.probabilities[0].tolist(), dump.labels)
    inputs = {f"input {name}": array for name, array in dump.first_inputs.items()}
    return contact_sheet(None, {**inputs, **layers})


def _sheet_entry(dump: LayerDump, name: str) -> Array | str:
    """Return a layer's output for the first row, or the text that the contact sheet shows instead."""
    output = dump.layers[name]
    if isinstance(output, str):
        return output
    return f"same tensor as {dump.duplicates[name]}" if name in dump.duplicates else output[0]


def _duplicates(layers: Sequence[LayerInfo]) -> dict[str, str]:
    first: dict[str, str] = {}
    for layer in layers:
        first.setdefault(layer.value, layer.name)
    return {layer.name: first[layer.value] for layer in layers if first[layer.value] != layer.name}


def _concatenated(layer: LayerInfo, responses: Sequence[Mapping[str, Array]]) -> Array:
    """Concatenate a layer's outputs of all requests along the batch, which is added if the layer has none."""
    outputs = [response[layer.name] for response in responses]
    return np.concatenate(outputs) if layer.batch_first else np.stack(outputs)


def _select_layers(client: Client, model: str, patterns: Sequence[str], version: str) -> list[LayerInfo]:
    """Return each layer that matches a pattern once, in the order of the network's calls."""
    layers = client.layers(model, version=version)
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            examples = ", ".join(layer.name for layer in layers[:8])
            raise NoSuchLayerError(f"no layer of model '{model}' matches '{pattern}'; its first layers are {examples}.")
    selected = [layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]
    require_fetchable(selected)
    return selected


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file in the same folder and rename it, so that `path` is never incomplete."""
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
