"""Atomic writes of files and folders: a reader sees the complete old content or the complete new content."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".new"  # suffix of files and folders that are being written


def is_unfinished(path: Path) -> bool:
    """Return whether `path` is a temporary file or folder of this module, left behind by a crash."""
    return path.name.startswith(".") and path.name.endswith(UNFINISHED)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, replacing an existing file, and flush it to disk."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, and rename it to `path` if the block succeeds.

    An existing folder is renamed to `backup_path(path)` between the two renames, so one complete folder exists at any
    time. Readers open `folder_or_backup(path)`.
    """
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        _replace(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def backup_path(path: Path) -> Path:
    """Return where the old folder `path` is kept while a new one replaces it."""
    return path.with_name(f".{path.name}.old")


def folder_or_backup(path: Path) -> Path:
    """Return `path`, or its backup if a writer stopped between the two renames."""
    return backup_path(path) if not path.exists() and backup_path(path).exists() else path


def _replace(path: Path, new: Path) -> None:
    if path.exists():
        shutil.rmtree(backup_path(path), ignore_errors=True)
        path.rename(backup_path(path))
    new.rename(path)
    _flush(path.parent)
    shutil.rmtree(backup_path(path), ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")


def _flush(path: Path) -> None:
    """Flush a file, or a folder's list of names, from the operating system's cache to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
