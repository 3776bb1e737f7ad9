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

from protos import inference
from protos.files import CONFIG, MANIFEST, MODEL
from protos.labels import parse_labels
from protos.manifest import Manifest
from protos.version import SCHEMA_VERSION
from serve.errors import BadModelError, RepositoryError

log = logging.getLogger(__name__)
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
    """A version's number and .onnx file, not read yet."""

    number: int
    path: Path

    def read(self) -> Version:
        """Read the manifest beside the file, and compare its checksum with the file. Raises: BadModelError."""
        with _translate_os_errors(self.path):
            return Version(self.number, self.path, _read_matching_manifest(self.path))


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


def read(path: Path) -> list[ModelFiles]:
    """Return the models of the repository at `path`, sorted by name; or the one model if `path` is an .onnx file.

    Raises:
        RepositoryError: `path` holds no model.
        BadModelError: A model's files are inconsistent.
    """
    if path.is_file() and path.suffix == ".onnx":
        return [ModelFiles(path.stem, None, [Candidate(1, path)], 1)]
    names = list_names(path)
    if not names:
        raise RepositoryError(f"{path} holds no model: 'zoonnx export NETWORK --to {path}' writes one.")
    return [read_model(path / name) for name in names]


def list_names(path: Path) -> list[str]:
    """Return the names of the models in the repository at `path`, sorted. Raises: RepositoryError."""
    if not path.is_dir():
        raise RepositoryError(f"{path} is neither a folder nor an .onnx file: pass the folder of the models.")
    if any(_is_version(folder) for folder in path.iterdir()):
        raise RepositoryError(f"{path} is itself a model: pass the folder that contains it, {path.resolve().parent}.")
    return sorted(folder.name for folder in path.iterdir() if _is_model(folder))


def _is_model(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    try:
        is_model = (folder / CONFIG).exists() or any(_is_version(entry) for entry in folder.iterdir())
    except OSError as error:
        log.warning("skipping %s: it cannot be read: %s", folder, error.strerror)
        return False
    if not is_model:
        log.info("skipping %s: it has neither a %s nor a version folder", folder, CONFIG)
    return is_model


def _is_version(folder: Path) -> bool:
    return folder.is_dir() and folder.name.isascii() and folder.name.isdigit() and not folder.name.startswith("0")


def read_model(folder: Path) -> ModelFiles:
    """Return the model in `folder` with its configuration and labels; versions are not read. Raises: BadModelError."""
    with _translate_os_errors(folder):
        config = _read_config(folder)
        allowed, served_count = _allowed_versions(folder, config)
        file = _require_inside(folder, (config.default_model_filename if config else "") or MODEL)
        return ModelFiles(
            name=folder.name,
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
    numbers = sorted((int(entry.name) for entry in folder.iterdir() if _is_version(entry)), reverse=True)
    policy = config.version_policy if config else inference.ModelVersionPolicy()
    policy_versions = policy.specific.versions if policy.HasField("specific") else numbers
    allowed = [number for number in numbers if number in policy_versions]
    if not allowed:
        raise BadModelError(f"{folder} has no version to serve: it needs a folder such as {folder}/1 with a {MODEL}.")
    serve_all = policy.HasField("specific") or policy.HasField("all")
    return allowed, len(allowed) if serve_all else policy.latest.num_versions or 1


def _read_matching_manifest(path: Path) -> Manifest | None:
    """Read the manifest beside the model file `path`, and check that it describes this file."""
    if not path.is_file():
        raise BadModelError(f"{path} is missing: put the model there, or name it as default_model_filename.")
    manifest = _read_manifest(path.parent / MANIFEST)
    for entry in manifest.files if manifest else ():
        if entry.path == path.name and entry.sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
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
    """Return name, size, modification time and inode of each file of a model and of its versions.

    Hidden files, such as incomplete ones, are ignored.
    """
    paths = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    visible = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    stats = [(str(path.relative_to(folder)), _file_status(path)) for path in sorted(visible)]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats if stat)


def _file_status(path: Path) -> os.stat_result | None:
    """Return the status of a file; None if it is not a file, was removed or is not accessible."""
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None
