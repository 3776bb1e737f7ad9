"""What is checked: the versions of a model, as they stand on disk."""

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
from export.names import CONFIG, MANIFEST, MODEL
from protos import inference, manifest


@dataclass(frozen=True)
class Subject:
    """One version: `fields` is its manifest as it stands on disk, None where there is none."""

    folder: Path
    fields: dict[str, Any] | None

    @property
    def shared(self) -> Path:
        """The model's folder, whose files all its versions share."""
        return self.folder.parent

    @property
    def name(self) -> str:
        """The model's name, which is its folder's."""
        return self.shared.resolve().name

    @property
    def paths(self) -> Iterator[Path]:
        """Every file of the version and every file that it shares, sorted."""
        own = sorted(path for path in self.folder.rglob("*") if not path.is_dir())
        shared = sorted(path for path in self.shared.iterdir() if not path.is_dir())
        yield from (*shared, *own)

    @property
    def strange_folders(self) -> Iterator[Path]:
        """What lies beside the versions and is none."""
        return (path for path in sorted(self.shared.iterdir()) if path.is_dir() and not _is_version(path))

    @cached_property
    def promise(self) -> manifest.Manifest | None:
        """The manifest; fields that only a later zoonnx knows are left out. Raises: DamagedError."""
        if self.fields is None:
            return None
        try:
            return json_format.ParseDict(self.fields, manifest.Manifest(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise DamagedError(self.folder / MANIFEST, f"it cannot be read as a manifest: {error}") from error

    @cached_property
    def config(self) -> inference.ModelConfig | None:
        """The model's configuration, None where there is none. Raises: DamagedError."""
        path = self.shared / CONFIG
        if not path.exists() and not path.is_symlink():
            return None
        try:
            return text_format.Parse(read_plain(path).decode("utf-8"), inference.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise DamagedError(path, f"it cannot be read as a model configuration: {error}") from error
        except OSError as error:
            raise DamagedError(path, f"it cannot be read: {error.strerror}") from error

    @property
    def model_path(self) -> Path:
        """Where the version's ONNX file is."""
        named = self.config.default_model_filename if self.config else ""
        return self.folder / (named or MODEL)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The ONNX file, without weights that stand beside it. Raises: DamagedError."""
        try:
            return onnx.load(self.model_path, load_external_data=False)
        except FileNotFoundError as error:
            raise DamagedError(self.model_path, "it is missing") from error
        except Exception as error:
            raise DamagedError(self.model_path, f"it cannot be read as an ONNX model: {error}") from error

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the ONNX file says about itself."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def read_plain(path: Path) -> bytes:
    """Return what a file holds. Raises: OSError, also where it is a pipe or a device, which might never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no plain file")
    return path.read_bytes()


def version_folders(place: Path) -> Sequence[Path]:
    """Return the version that `place` is, those of the model `place`, oldest first, or those of a repository's models.

    Raises: NoModelError.
    """
    try:
        os.fspath(place.absolute()).encode()
    except UnicodeEncodeError:
        raise NoModelError(f"{place}: its path is not UTF-8, and ONNX's tools open no other: rename it.") from None
    if not place.is_dir():
        raise NoModelError(f"{place} is no folder: give a model's, such as models/NAME, or a version's, models/NAME/2.")
    place = place if place.name not in ("", "..") else place.resolve()
    if _is_version(place):
        return [place if len(place.parts) > 1 else place.resolve()]
    found = _versions(place) or [each for model in sorted(_folders(place)) for each in _versions(model)]
    if not found:
        raise NoModelError(f"{place} holds no version of a model: those are folders with numbers for names.")
    return found


def _versions(model: Path) -> list[Path]:
    return sorted(filter(_is_version, _folders(model)), key=lambda folder: int(folder.name))


def _folders(place: Path) -> list[Path]:
    """The folders in it that are not hidden."""
    return [each for each in place.iterdir() if each.is_dir() and not each.name.startswith(".")]


def _is_version(folder: Path) -> bool:
    name = folder.name
    return folder.is_dir() and name.isascii() and name.isdigit() and not name.startswith("0")
