"""Checks of the paths that a command names, fast because nothing here imports torch."""

from pathlib import Path

from zoo.errors import CheckpointError, DataError
from zoo.storage.atomic_io import is_unfinished

FOLDER = "folder:"


def folder_of(data: str) -> Path:
    """Return the folder of the dataset name `folder:PATH`.

    Raises:
        DataError: the path is empty, does not exist, or is a file.
    """
    path = data.removeprefix(FOLDER)
    require_path(path)
    check_folder(Path(path))
    return Path(path)


def require_path(path: str) -> None:
    """Require that the path of `folder:PATH` is not empty.

    Raises:
        DataError: it is empty.
    """
    if not path:
        raise DataError(f"'{FOLDER}' names no folder; write {FOLDER}PATH, or {FOLDER}. for the current directory")


def check_folder(root: Path) -> None:
    """Require a folder of images.

    Raises:
        DataError: it does not exist, or is a file.
    """
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"{root} is a file; expected a folder with one sub-folder of images per class")
    raise DataError(f"there is no folder {root}; expected one sub-folder of images per class: {root}/CLASS/*.png")


def redact_path(path: str) -> str:
    """Return the last component of a path, also of "." and of a path with a trailing slash."""
    return Path(path).resolve().name


def redact_hub_name(name: str) -> str:
    """Return NAME[@SUBSET][#COLUMN] with a local folder reduced to its last component; other names do not change."""
    path, subset, column = split_hub_name(name)
    if not Path(path).is_dir():
        return name
    return f"{redact_path(path)}{'@' * bool(subset)}{subset}{'#' * bool(column)}{column}"


def split_hub_name(name: str) -> tuple[str, str, str]:
    """Return the name or folder, the subset and the column of NAME[@SUBSET][#COLUMN]; missing ones are empty."""
    name, _, column = name.partition("#")
    if Path(name).is_dir():  # its own name may contain @
        return name, "", column
    name, _, subset = name.partition("@")
    return name, subset, column


def require_empty_dir(run: Path) -> None:
    """Require that a folder does not exist or is empty; unfinished files of a crashed write do not count.

    Raises:
        CheckpointError: it has other content, or is a file.
    """
    if run.exists() and (not run.is_dir() or any(not is_unfinished(entry) for entry in run.iterdir())):
        is_run = any((run / name).exists() for name in ("config.json", "folds.json", "fold-1"))
        problem = "already holds a run" if is_run else "already exists and is not empty"
        resume = ", or continue a stopped run with --resume" if is_run else ""
        raise CheckpointError(f"{run} {problem}; nothing was overwritten: remove it or choose another folder{resume}")


def check_file(file: str | None) -> None:
    """Require that a weights file exists; None passes.

    Raises:
        CheckpointError: it does not exist.
    """
    if file is not None and not Path(file).is_file():
        raise CheckpointError(f"the weights file {file} does not exist")
