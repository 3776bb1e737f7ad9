"""Writes a version into a Triton model repository, whole or not at all.

Requires: every file of the version in memory, already checked.
Ensures: a reader never sees half a version; a written version never changes; on failure the repository is as it was.
"""

import errno
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from export.errors import RepositoryConflictError, RepositoryError, TargetError

STAGING_PREFIX = ".staging-"
ABANDONED_S = 24 * 3600  # a staging folder of that age is of an export that was killed
WHOLE = "model"
RACES = 20


def next_version(model: Path) -> int:
    """Return the version that the next export of the model folder gets: one more than the highest that stands there."""
    if not model.is_dir():
        return 1
    return max((int(path.name) for path in model.iterdir() if path.name.isdecimal()), default=0) + 1


def require_same(model: Path, shared: Mapping[str, bytes]) -> None:
    """Refuse a model folder whose shared files promise something else. Raises: RepositoryConflictError."""
    for name, content in shared.items():
        path = model / name
        if model.exists() and (not path.is_file() or path.read_bytes() != content):
            raise RepositoryConflictError(
                f"{path} {_difference(path, content)}, and all versions of a model share it: "
                "choose another --name, or move the old model away."
            )


def _difference(path: Path, content: bytes) -> str:
    """What is another in the text that stands there than in `content`: the first such line."""
    if not path.is_file():
        return "is not there"
    there, here = (each.decode("utf-8", "replace").splitlines() for each in (path.read_bytes(), content))
    for line, (old, new) in enumerate(itertools.zip_longest(there, here), 1):
        if old != new:
            has, wanted = ("nothing" if each is None else f"'{each.strip()}'" for each in (old, new))
            return f"has {has} in line {line}, this export {wanted}"
    return "has other line ends than this export"


def require_writable(model: Path) -> None:
    """Refuse, before anything is computed, a model folder that cannot get a version. Raises: RepositoryError."""
    for wanted in (model.parent, model):
        place = next(each for each in (wanted, *wanted.absolute().parents) if os.path.lexists(each))
        if not place.is_dir():
            raise RepositoryError(f"cannot write {model} because {place} is no folder: give another place with --to.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise TargetError(
                f"cannot write {model} because of {place}: nothing can be written there; nothing was changed there."
            )


def write_version(model: Path, shared: Mapping[str, bytes], files: Mapping[str, bytes]) -> Path:
    """Write `files` as the model's next version and return its folder. Paths are relative to that folder.

    Raises: RepositoryError.
    """
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        with _staging(model.parent) as staging:
            _write(staging / WHOLE / "1", files)
            _write(staging / WHOLE, shared)
            return _put(staging / WHOLE, model, shared)
    except OSError as error:
        raise TargetError(f"cannot write {model}: {error.strerror or error}; nothing was changed there.") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as `folder`, where nothing stands yet. Raises: RepositoryError."""
    if folder.exists():
        raise RepositoryError(f"{folder} stands there already: move it away.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder.parent) as staging:
            _write(staging / WHOLE, files)
            (staging / WHOLE).rename(folder)
    except OSError as error:
        raise TargetError(f"cannot write {folder}: {error.strerror or error}; nothing was changed there.") from error


def _put(whole: Path, model: Path, shared: Mapping[str, bytes]) -> Path:
    """Rename the staged model, or its one version, to where it belongs; another export may be doing the same."""
    for _ in range(RACES):
        require_same(model, shared)
        source, target = (whole / "1", model / str(next_version(model))) if model.exists() else (whole, model)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return target if source.name == "1" else model / "1"
    raise RepositoryError(f"other exports write into {model} without a pause: try again when they are done.")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A hidden folder on the same file system; what is not renamed away is removed."""
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove what exports left that were killed."""
    for folder in parent.glob(f"{STAGING_PREFIX}*"):
        with suppress(FileNotFoundError):  # another export removes it, or ends
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
