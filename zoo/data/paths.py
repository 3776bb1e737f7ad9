"""Which folders and files a command names, looked at before anything slow is imported: nothing here needs torch."""

from pathlib import Path

from zoo.errors import CheckpointError, DataError
from zoo.storage.atomic_io import is_unfinished

FOLDER = "folder:"


def folder_of(data: str) -> Path:
    """The folder that `folder:PATH` names.

    Raises:
        DataError: there is none, or it is a file.
    """
    place = data.removeprefix(FOLDER)
    if not place:
        raise DataError(f"'{data}' names no folder; write {FOLDER}PATH, or {FOLDER}. for the one you are in")
    check_folder(Path(place))
    return Path(place)


def check_folder(root: Path) -> None:
    """Require a folder where images may lie.

    Raises:
        DataError: there is none, or it is a file.
    """
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"{root} is a file; give the folder that holds a folder of images for each class")
    raise DataError(f"there is no folder {root}; images lie in one folder a class: {root}/CLASS/*.png")


def refuse_taken(run: Path) -> None:
    """Require a folder that is empty, or not there; what a crash left of our own unfinished files is nothing.

    Raises:
        CheckpointError: something lies there already.
    """
    if run.exists() and (not run.is_dir() or any(not is_unfinished(each) for each in run.iterdir())):
        holds_run = any((run / name).exists() for name in ("config.json", "folds.json", "fold-1"))
        what = "already holds a run" if holds_run else "is there already and is not empty"
        go_on = ", or go on with one that stopped by --resume" if holds_run else ""
        raise CheckpointError(f"{run} {what}; nothing was overwritten: remove it or choose another folder{go_on}")


def check_file(file: str | None) -> None:
    """Require the file of weights that is named, if one is.

    Raises:
        CheckpointError: it is not there.
    """
    if file is not None and not Path(file).is_file():
        raise CheckpointError(f"there is no file {file} of weights")
