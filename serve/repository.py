"""Reads a model repository in Triton's layout: models/NAME/[config.pbtxt], models/NAME/VERSION/model.onnx."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import json_format, text_format

from protos import inference, manifest
from serve.errors import BadModelError, RepositoryError

log = logging.getLogger(__name__)
CONFIG, MANIFEST, MODEL = "config.pbtxt", "manifest.json", "model.onnx"


@dataclass(frozen=True)
class Version:
    """A version's number, file, and `promise`, the manifest of its export (None for a model that others made)."""

    number: int
    path: Path
    promise: manifest.Manifest | None = None


@dataclass(frozen=True)
class ModelFiles:
    """What stands on disk for one model. `config` is None where there is no config.pbtxt.

    `versions` are those that the config's version policy selects, ascending; `labels` are by output.
    """

    name: str
    config: inference.ModelConfig | None
    versions: Sequence[Version]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read(place: Path) -> list[ModelFiles]:
    """Read the repository `place`, or the one model if it is an .onnx file, sorted by name.

    Raises:
        RepositoryError: there is no model at that place.
        BadModelError: a model's files do not fit together.
    """
    if place.is_file() and place.suffix == ".onnx":
        return [ModelFiles(place.stem, None, [Version(1, place)])]
    if not place.is_dir():
        raise RepositoryError(f"{place} is no folder and no .onnx file: give the folder that holds the models.")
    if any(_is_version(folder) for folder in place.iterdir()):
        raise RepositoryError(f"{place} is itself a model: give the folder that holds it, {place.resolve().parent}.")
    models = [_read_model(folder) for folder in sorted(place.iterdir()) if _is_model(folder)]
    if not models:
        raise RepositoryError(f"{place} holds no model: 'zoonnx export NET --to {place}' writes one.")
    return models


def _is_model(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    found = (folder / CONFIG).exists() or any(_is_version(each) for each in folder.iterdir())
    if not found:
        log.info("%s is passed over: it has neither a %s nor a folder named by a version.", folder, CONFIG)
    return found


def _is_version(folder: Path) -> bool:
    return folder.is_dir() and folder.name.isascii() and folder.name.isdigit() and not folder.name.startswith("0")


def _read_model(folder: Path) -> ModelFiles:
    config = _read_config(folder)
    numbers = _selected(folder, config)
    file = (config.default_model_filename if config else "") or MODEL
    return ModelFiles(
        name=folder.name,
        config=config,
        versions=[_read_version(folder / str(number), file) for number in numbers],
        labels=dict(_read_labels(folder, config)) if config else {},
    )


def _read_config(folder: Path) -> inference.ModelConfig | None:
    path = folder / CONFIG
    if not path.exists():
        return None
    try:
        config = text_format.Parse(path.read_text("utf-8"), inference.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise BadModelError(f"{path} cannot be read as a model configuration: {error}") from error
    if config.name not in ("", folder.name):
        raise BadModelError(f"{path} says name '{config.name}', but its folder is '{folder.name}': make them equal.")
    return config


def _selected(folder: Path, config: inference.ModelConfig | None) -> list[int]:
    """The versions to serve, ascending; without a policy the newest."""
    found = sorted(int(each.name) for each in folder.iterdir() if _is_version(each))
    policy = config.version_policy if config else inference.ModelVersionPolicy()
    if policy.HasField("specific"):
        wanted = set(policy.specific.versions)
    elif policy.HasField("all"):
        wanted = set(found)
    else:
        wanted = set(found[-(policy.latest.num_versions or 1) :])
    selected = [number for number in found if number in wanted]
    if not selected:
        raise BadModelError(f"{folder} has no version to serve: it needs a folder such as {folder}/1 with a {MODEL}.")
    return selected


def _read_version(folder: Path, file: str) -> Version:
    path = folder / file
    if not path.is_file():
        raise BadModelError(f"{path} is missing: put the model there, or name it as default_model_filename.")
    promise = _read_manifest(folder / MANIFEST)
    for entry in promise.files if promise else ():
        if entry.path == file and entry.sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
            raise BadModelError(f"{path} is not the file that {MANIFEST} beside it describes: export the model again.")
    return Version(int(folder.name), path, promise)


def _read_manifest(path: Path) -> manifest.Manifest | None:
    if not path.exists():
        return None
    try:
        return json_format.Parse(path.read_text("utf-8"), manifest.Manifest(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BadModelError(f"{path} cannot be read as a manifest: {error}") from error


def _read_labels(folder: Path, config: inference.ModelConfig) -> Iterator[tuple[str, Sequence[str]]]:
    for output in config.output:
        path = folder / output.label_filename
        if output.label_filename and not path.is_file():
            raise BadModelError(f"{path} is missing: {CONFIG} names it as the labels of output '{output.name}'.")
        if output.label_filename:
            yield output.name, path.read_text("utf-8").splitlines()
