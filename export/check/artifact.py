"""Reads the versions of a model from disk."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import json_format, text_format

from export.errors import DamagedError, NoModelError
from protos import inference
from protos.files import CONFIG, MANIFEST, MODEL
from protos.manifest import Manifest


@dataclass(frozen=True)
class Artifact:
    """One version on disk.

    Attributes:
        folder: The version's folder.
        fields: The JSON object in manifest.json; None if there is no manifest.
    """

    folder: Path
    fields: dict[str, Any] | None

    @property
    def model_folder(self) -> Path:
        """The model's folder, which holds the files that all versions share."""
        return self.folder.parent

    @property
    def model_name(self) -> str:
        """The model's name: the name of its folder."""
        return self.model_folder.resolve().name

    @property
    def file_paths(self) -> Iterator[Path]:
        """The shared files, then the files of the version, each sorted."""
        own = sorted(path for path in self.folder.rglob("*") if not path.is_dir())
        shared = sorted(path for path in self.model_folder.iterdir() if not path.is_dir())
        yield from (*shared, *own)

    @property
    def unknown_folders(self) -> Iterator[Path]:
        """Other folders beside the versions."""
        return (path for path in sorted(self.model_folder.iterdir()) if path.is_dir() and not _is_version(path))

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest, without fields of a newer schema. Raises: DamagedError."""
        if self.fields is None:
            return None
        try:
            return json_format.ParseDict(self.fields, Manifest(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise DamagedError(self.folder / MANIFEST, f"cannot be read as a manifest: {error}") from error

    @cached_property
    def config(self) -> inference.ModelConfig | None:
        """The model configuration; None if there is no config.pbtxt. Raises: DamagedError."""
        path = self.model_folder / CONFIG
        if not path.exists() and not path.is_symlink():
            return None
        try:
            return text_format.Parse(read_regular_file(path).decode("utf-8"), inference.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise DamagedError(path, f"cannot be read as a model configuration: {error}") from error
        except OSError as error:
            raise DamagedError(path, f"cannot be read: {error.strerror}") from error

    @property
    def model_path(self) -> Path:
        """The path of the ONNX file."""
        configured = self.config.default_model_filename if self.config else ""
        return self.folder / (configured or MODEL)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The ONNX model, without external weights. Raises: DamagedError."""
        try:
            return onnx.load(self.model_path, load_external_data=False)
        except FileNotFoundError as error:
            raise DamagedError(self.model_path, "missing") from error
        except Exception as error:
            raise DamagedError(self.model_path, f"cannot be read as an ONNX model: {error}") from error

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata properties of the ONNX file."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def read_regular_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises: OSError, also for a pipe or a device: reading one might never end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file")
    return path.read_bytes()


def version_folders(path: Path) -> Sequence[Path]:
    """Return the versions at `path`: a version itself, or those of a model (oldest first) or of a repository.

    Raises: NoModelError.
    """
    try:
        os.fspath(path.absolute()).encode()
    except UnicodeEncodeError:
        raise NoModelError(f"{path}: the path is not UTF-8, which ONNX requires: rename it.") from None
    if not path.is_dir():
        raise NoModelError(
            f"{path} is not a folder: pass the folder of a model, such as models/NAME, or of a version, such as "
            "models/NAME/2."
        )
    path = path if path.name not in ("", "..") else path.resolve()
    if _is_version(path):
        return [path if len(path.parts) > 1 else path.resolve()]
    versions = _versions(path) or [version for model in sorted(_folders(path)) for version in _versions(model)]
    if not versions:
        raise NoModelError(f"{path} contains no version of a model: versions are folders named by a number.")
    return versions


def _versions(model: Path) -> list[Path]:
    return sorted(filter(_is_version, _folders(model)), key=lambda folder: int(folder.name))


def _folders(parent: Path) -> list[Path]:
    """Return the folders in `parent` that are not hidden."""
    return [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _is_version(folder: Path) -> bool:
    name = folder.name
    return folder.is_dir() and name.isascii() and name.isdigit() and not name.startswith("0")
