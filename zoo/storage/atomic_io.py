"""Files and folders that appear whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".new"  # how the names end of what is not yet whole


def is_unfinished(path: Path) -> bool:
    """Whether this is what a crash left of a file or folder that was being written here."""
    return path.name.startswith(".") and path.name.endswith(UNFINISHED)


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, over what was there, so that a reader sees all of the old or all of the new."""
    temporary = _neighbour(path)
    try:
        temporary.write_bytes(data)
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty neighbour to fill, and make it `path` when the block ends well.

    A folder that stood there waits at `fallback(path)` for the moment between the two renames, so at any time one of
    the two is whole. Readers ask `standing_folder`.
    """
    temporary = _neighbour(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fallback(path: Path) -> Path:
    """Where the folder `path` waits while its successor takes its place."""
    return path.with_name(f".{path.name}.old")


def standing_folder(path: Path) -> Path:
    """`path`, or its fallback where a writer stopped between the two renames."""
    return fallback(path) if not path.exists() and fallback(path).exists() else path


def _swap(new: Path, path: Path) -> None:
    if path.exists():
        shutil.rmtree(fallback(path), ignore_errors=True)
        path.rename(fallback(path))
    new.rename(path)
    _flush(path.parent)
    shutil.rmtree(fallback(path), ignore_errors=True)


def _neighbour(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")


def _flush(path: Path) -> None:
    """Have the operating system put `path`, a file or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
