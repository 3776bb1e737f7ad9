"""Finds the models of a repository by its folders, and says where a misplaced file belongs."""

import logging
from collections.abc import Iterator
from pathlib import Path

from protos.files import CONFIG, MODEL
from serve.errors import RepositoryError

log = logging.getLogger(__name__)
SUFFIX = ".onnx"
MAX_MISPLACED = 3  # sentences in one error


def is_single_model(path: Path) -> bool:
    """Return whether `path` is one .onnx file instead of a repository."""
    return path.is_file() and path.suffix == SUFFIX


def list_names(path: Path) -> list[str]:
    """Return the names of the models in the repository at `path`, or of the one .onnx file, sorted.

    Raises:
        RepositoryError: `path` is no repository: the message names the folder to pass instead.
    """
    if is_single_model(path):
        return [path.stem]
    if not path.is_dir():
        raise RepositoryError(f"{path} is neither a folder nor an .onnx file: pass the folder of the models.")
    if any(is_version(folder) for folder in path.iterdir()):
        raise RepositoryError(f"{path} is itself a model: pass the folder that contains it, {path.resolve().parent}.")
    if is_version(path) and (path / MODEL).exists():
        raise RepositoryError(
            f"{path} is a version of a model: pass the folder that contains the model, {path.resolve().parent.parent}."
        )
    return sorted(folder.name for folder in path.iterdir() if _is_model(folder))


def misplaced(path: Path) -> list[str]:
    """Return a sentence for each visible file and folder of the repository `path` that may be meant as a model."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and not _is_model(entry))
    return [sentence for entry in entries for sentence in _misplaced(entry)]


def nothing_to_serve(path: Path) -> str:
    """Return the message for a repository without models."""
    sentences = misplaced(path)[:MAX_MISPLACED] or [f"'zoonnx export NETWORK --to {path}' writes one."]
    return f"{path} holds no model: {' '.join(sentences)}"


def place_in(folder: Path) -> str:
    """Return what a model's `folder` without a version needs, as a clause with a full stop."""
    files = _onnx_files(folder)
    if files:
        return f"move {files[0]} to {folder / '1' / MODEL}."
    return f"it needs a version folder: put the model at {folder / '1' / MODEL}."


def is_version(folder: Path) -> bool:
    """Return whether a folder is a version: its name is a number without leading zeros."""
    return folder.is_dir() and folder.name.isascii() and folder.name.isdigit() and not folder.name.startswith("0")


def _misplaced(entry: Path) -> Iterator[str]:
    if is_single_model(entry):
        yield f"{entry} is not served: move it to {entry.with_suffix('') / '1' / MODEL}."
    elif entry.is_dir():
        yield f"{entry} is not served: {place_in(entry)}"


def _onnx_files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if is_single_model(file))
    except OSError:  # _is_model has logged it
        return []


def _is_model(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    try:
        return (folder / CONFIG).exists() or any(is_version(entry) for entry in folder.iterdir())
    except OSError as error:
        log.warning("skipping %s: it cannot be read: %s", folder, error.strerror)
        return False
