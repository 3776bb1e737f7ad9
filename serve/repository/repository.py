"""Reads a model repository in Triton's layout: models/NAME/[config.pbtxt], models/NAME/VERSION/model.onnx."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import json_format, text_format

from protos import inference, manifest
from protos.version import SCHEMA_VERSION
from serve.errors import BadModelError, RepositoryError

log = logging.getLogger(__name__)
Fingerprint = tuple[tuple[str, int, int, int], ...]
CONFIG, MANIFEST, MODEL = "config.pbtxt", "manifest.json", "model.onnx"


@dataclass(frozen=True)
class Version:
    """A version's number, file, and `promise`, the manifest of its export (None for a model that others made)."""

    number: int
    path: Path
    promise: manifest.Manifest | None = None


@dataclass(frozen=True)
class Candidate:
    """A version's number and file, not read yet."""

    number: int
    path: Path

    def read(self) -> Version:
        """Read what stands beside the file, and compare. Raises: BadModelError."""
        with _readable(self.path):
            return Version(self.number, self.path, _read_promise(self.path))


@dataclass(frozen=True)
class ModelFiles:
    """What stands on disk for one model. `config` is None where there is no config.pbtxt.

    `candidates` are the versions that the config's version policy admits, newest first, and `wanted` is how many of
    them are to be served; `labels` are by output.
    """

    name: str
    config: inference.ModelConfig | None
    candidates: Sequence[Candidate]
    wanted: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read(place: Path) -> list[ModelFiles]:
    """Read the repository `place`, or the one model if it is an .onnx file, sorted by name.

    Raises:
        RepositoryError: there is no model at that place.
        BadModelError: a model's files do not fit together.
    """
    if place.is_file() and place.suffix == ".onnx":
        return [ModelFiles(place.stem, None, [Candidate(1, place)], 1)]
    names = list_names(place)
    if not names:
        raise RepositoryError(f"{place} holds no model: 'zoonnx export NET --to {place}' writes one.")
    return [read_model(place / name) for name in names]


def list_names(place: Path) -> list[str]:
    """Return the names of the models in the repository `place`, sorted. Raises: RepositoryError."""
    if not place.is_dir():
        raise RepositoryError(f"{place} is no folder and no .onnx file: give the folder that holds the models.")
    if any(_is_version(folder) for folder in place.iterdir()):
        raise RepositoryError(f"{place} is itself a model: give the folder that holds it, {place.resolve().parent}.")
    return sorted(folder.name for folder in place.iterdir() if _is_model(folder))


def _is_model(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    try:
        found = (folder / CONFIG).exists() or any(_is_version(each) for each in folder.iterdir())
    except OSError as error:
        log.warning("%s is passed over: it cannot be read: %s", folder, error.strerror)
        return False
    if not found:
        log.info("%s is passed over: it has neither a %s nor a folder named by a version.", folder, CONFIG)
    return found


def _is_version(folder: Path) -> bool:
    return folder.is_dir() and folder.name.isascii() and folder.name.isdigit() and not folder.name.startswith("0")


def read_model(folder: Path) -> ModelFiles:
    """Read what a model's folder says of all its versions. Raises: BadModelError."""
    with _readable(folder):
        config = _read_config(folder)
        admitted, wanted = _admitted(folder, config)
        file = _inside(folder, (config.default_model_filename if config else "") or MODEL)
        return ModelFiles(
            name=folder.name,
            config=config,
            candidates=[Candidate(number, folder / str(number) / file) for number in admitted],
            wanted=wanted,
            labels=dict(_read_labels(folder, config)) if config else {},
        )


@contextmanager
def _readable(place: Path) -> Iterator[None]:
    """Turn what the operating system says of a model's files into a BadModelError."""
    try:
        yield
    except OSError as error:
        raise BadModelError(f"{error.filename or place} cannot be read: {error.strerror or error}.") from error


def _inside(folder: Path, name: str) -> str:
    """Refuse a file's name that leads out of the model's folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadModelError(f"{folder / CONFIG} names the file '{name}', which lies outside the model's folder.")
    return name


def _read_config(folder: Path) -> inference.ModelConfig | None:
    path = folder / CONFIG
    if not path.exists():
        return None
    try:
        config = text_format.Parse(path.read_text("utf-8"), inference.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise BadModelError(f"{path} cannot be read as a model configuration: {error}") from error
    if config.name not in ("", folder.name):
        raise BadModelError(f"{path} says name '{config.name}', but its folder is '{folder.name}': make them equal.")
    return config


def _admitted(folder: Path, config: inference.ModelConfig | None) -> tuple[list[int], int]:
    """The versions that may be served, newest first, and how many of them; without a policy one."""
    found = sorted((int(each.name) for each in folder.iterdir() if _is_version(each)), reverse=True)
    policy = config.version_policy if config else inference.ModelVersionPolicy()
    named = policy.specific.versions if policy.HasField("specific") else found
    admitted = [number for number in found if number in named]
    if not admitted:
        raise BadModelError(f"{folder} has no version to serve: it needs a folder such as {folder}/1 with a {MODEL}.")
    every = policy.HasField("specific") or policy.HasField("all")
    return admitted, len(admitted) if every else policy.latest.num_versions or 1


def _read_promise(path: Path) -> manifest.Manifest | None:
    """Read the manifest beside a model's file, and see that the file is the one it describes."""
    if not path.is_file():
        raise BadModelError(f"{path} is missing: put the model there, or name it as default_model_filename.")
    promise = _read_manifest(path.parent / MANIFEST)
    for entry in promise.files if promise else ():
        if entry.path == path.name and entry.sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
            raise BadModelError(f"{path} is not the file that {MANIFEST} beside it describes: export the model again.")
    return promise


def _read_manifest(path: Path) -> manifest.Manifest | None:
    if not path.exists():
        return None
    try:
        promise = json_format.Parse(path.read_text("utf-8"), manifest.Manifest(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise BadModelError(f"{path} cannot be read as a manifest: {error}") from error
    if promise.schema_version > SCHEMA_VERSION:
        raise BadModelError(
            f"{path} has schema_version {promise.schema_version}; this zoonnx knows up to {SCHEMA_VERSION}: "
            "install a newer zoonnx to serve it."
        )
    return promise


def _read_labels(folder: Path, config: inference.ModelConfig) -> Iterator[tuple[str, Sequence[str]]]:
    for output in config.output:
        path = folder / _inside(folder, output.label_filename)
        if output.label_filename and not path.is_file():
            raise BadModelError(f"{path} is missing: {CONFIG} names it as the labels of output '{output.name}'.")
        if output.label_filename:
            yield output.name, _read_lines(path)


def _read_lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadModelError(f"{path} is not UTF-8, as labels must be.") from error


def redact_paths(words: str, models: Path, name: str, version: int) -> str:
    """Say the paths in `words`, which are about one model, as seen from the repository `models`."""
    inside = f"{name}/{version or ''}".rstrip("/")
    hidden = {
        (models / inside).resolve(): f"{inside}/",
        (models / name).resolve(): f"{name}/",
        models.resolve(): "",
        models: "",
    }
    for place, shown in hidden.items():
        words = re.sub(rf"(?<![\w./-]){re.escape(str(place).rstrip('/'))}/", shown.replace("\\", r"\\"), words)
    return re.sub(rf"(?<![\w./-]){re.escape(str(models.resolve()))}(?![\w-])", "the repository", words)


def fingerprint(folder: Path) -> Fingerprint:
    """Return what changes whenever a file of a model changes, down to those of its versions.

    Hidden files, such as one that is being written, do not count.
    """
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    seen = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    stats = [(str(path.relative_to(folder)), _file_status(path)) for path in sorted(seen)]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats if stat)


def _file_status(path: Path) -> os.stat_result | None:
    """What the operating system says of a file; None where it is none, is gone by now or cannot be looked at."""
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None
