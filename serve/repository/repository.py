"""Reads a model repository in Triton's layout: models/NAME/[config.pbtxt], models/NAME/VERSION/model.onnx."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import json_format, text_format

from protos import inference
from protos.files import CONFIG, MANIFEST, MODEL
from protos.labels import parse_labels
from protos.manifest import Manifest
from protos.version import SCHEMA_VERSION
from serve.errors import BadModelError
from serve.repository.layout import is_single_model, is_version, place_in

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Version:
    """One version of a model.

    Attributes:
        number: The version's number.
        path: Its .onnx file.
        manifest: The manifest of its export; None for a model that zoonnx did not export.
    """

    number: int
    path: Path
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Candidate:
    """A version's number and .onnx file, not read yet; a model of several files may be a folder of that name."""

    number: int
    path: Path

    def read(self) -> Version:
        """Read the manifest beside the file, and compare its checksum with the file. Raises: BadModelError."""
        file = self.path / MODEL if self.path.is_dir() else self.path
        with _translate_os_errors(file):
            return Version(self.number, file, _read_matching_manifest(self.path.parent, file))


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: The model's name.
        config: The parsed config.pbtxt; None if there is none.
        candidates: The versions that the version policy allows, newest first.
        served_count: Number of candidates to serve.
        labels: Class labels by output name.
    """

    name: str
    config: inference.ModelConfig | None
    candidates: Sequence[Candidate]
    served_count: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_model(path: Path, name: str) -> ModelFiles:
    """Return a model of the repository `path`, or the one .onnx file there; its versions are not read.

    Raises:
        BadModelError: The model's files are inconsistent.
    """
    if is_single_model(path):
        return ModelFiles(name, None, [Candidate(1, path)], 1)
    folder = path / name
    with _translate_os_errors(folder):
        config = _read_config(folder)
        allowed, served_count = _allowed_versions(folder, config)
        file = _require_inside(folder, (config.default_model_filename if config else "") or MODEL)
        return ModelFiles(
            name=name,
            config=config,
            candidates=[Candidate(number, folder / str(number) / file) for number in allowed],
            served_count=served_count,
            labels=dict(_read_labels(folder, config)) if config else {},
        )


@contextmanager
def _translate_os_errors(path: Path) -> Iterator[None]:
    """Translate operating system errors about a model's files to BadModelError."""
    try:
        yield
    except OSError as error:
        raise BadModelError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error


def _require_inside(folder: Path, name: str) -> str:
    """Return the file name `name`, which must be inside the model's folder. Raises: BadModelError."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadModelError(f"{folder / CONFIG} names the file '{name}', which is outside the model's folder.")
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
        raise BadModelError(f"{path} has the name '{config.name}', but its folder is '{folder.name}': make them equal.")
    return config


def _allowed_versions(folder: Path, config: inference.ModelConfig | None) -> tuple[list[int], int]:
    """Return the versions that the policy allows, newest first, and the number to serve, by default one."""
    numbers = sorted((int(entry.name) for entry in folder.iterdir() if is_version(entry)), reverse=True)
    policy = config.version_policy if config else inference.ModelVersionPolicy()
    policy_versions = policy.specific.versions if policy.HasField("specific") else numbers
    allowed = [number for number in numbers if number in policy_versions]
    if not numbers:
        raise BadModelError(f"{folder} has no version to serve: {place_in(folder)}")
    if not allowed:
        selected, existing = (", ".join(map(str, sorted(part))) for part in (policy_versions, numbers))
        raise BadModelError(
            f"{folder} has no version to serve: {CONFIG} selects version {selected or 'none'}, but the folder has "
            f"{existing}."
        )
    serve_all = policy.HasField("specific") or policy.HasField("all")
    return allowed, len(allowed) if serve_all else policy.latest.num_versions or 1


def _read_matching_manifest(folder: Path, path: Path) -> Manifest | None:
    """Read the manifest of the version in `folder`, and check that it describes the model file `path`."""
    if not path.is_file():
        raise BadModelError(f"{path} is missing: put the model there, or name it as default_model_filename.")
    manifest = _read_manifest(folder / MANIFEST)
    name = path.relative_to(folder).as_posix()
    for entry in manifest.files if manifest else ():
        if entry.path == name and entry.sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
            raise BadModelError(f"{path} is not the file that its {MANIFEST} describes: export the model again.")
    return manifest


def _read_manifest(path: Path) -> Manifest | None:
    if not path.exists():
        return None
    try:
        manifest = json_format.Parse(path.read_text("utf-8"), Manifest(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise BadModelError(f"{path} cannot be read as a manifest: {error}") from error
    if manifest.schema_version > SCHEMA_VERSION:
        raise BadModelError(
            f"{path} has schema_version {manifest.schema_version}; this zoonnx reads versions up to {SCHEMA_VERSION}: "
            "install a newer zoonnx to serve it."
        )
    return manifest


def _read_labels(folder: Path, config: inference.ModelConfig) -> Iterator[tuple[str, Sequence[str]]]:
    for output in config.output:
        path = folder / _require_inside(folder, output.label_filename)
        if output.label_filename and not path.is_file():
            raise BadModelError(f"{path} is missing: {CONFIG} names it as the labels of output '{output.name}'.")
        if output.label_filename:
            yield output.name, _read_label_file(path)


def _read_label_file(path: Path) -> Sequence[str]:
    try:
        return parse_labels(path.read_bytes())
    except UnicodeDecodeError as error:
        raise BadModelError(f"{path} is not UTF-8, as labels must be.") from error


def redact_paths(text: str, models: Path, name: str, version: int) -> str:
    """Return `text`, a message about one model, with all paths relative to the repository `models`.

    `version` is 0 for a message about the model itself.
    """
    inside = f"{name}/{version or ''}".rstrip("/")
    replacements = {
        (models / inside).resolve(): f"{inside}/",
        (models / name).resolve(): f"{name}/",
        models.resolve(): "",
        models: "",
    }
    for path, relative in replacements.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(str(path).rstrip('/'))}/", relative.replace("\\", r"\\"), text)
    return re.sub(rf"(?<![\w./-]){re.escape(str(models.resolve()))}(?![\w-])", "the repository", text)


def fingerprint(folder: Path) -> Fingerprint:
    """Return name, size, modification time and inode of each file of a model, its versions and their folders.

    Hidden files, such as incomplete ones, are ignored.
    """
    paths = (path for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(pattern))  # through links too
    visible = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    stats = [(str(path.relative_to(folder)), _file_status(path)) for path in sorted(visible)]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats if stat)


def _file_status(path: Path) -> os.stat_result | None:
    """Return the status of a file; None if it is not a file, was removed or is not accessible."""
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None
