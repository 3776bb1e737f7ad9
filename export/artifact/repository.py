"""Writes a version into a Triton model repository, completely or not at all.

Requires: every file of the version in memory, already checked.
Ensures: a reader never sees an incomplete version; a written version never changes; a failed write leaves the
repository unchanged.
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

from export.artifact.beside import EDGE, REPORTS
from export.errors import RepositoryConflictError, RepositoryError, TargetError

STAGING_PREFIX = ".staging-"
ABANDONED_S = 24 * 3600  # age of a staging folder whose export must have been killed
STAGED_MODEL = "model"  # the folder inside a staging folder
MAX_ATTEMPTS = 20  # to rename a version while other exports write into the same model


def next_version(model: Path) -> int:
    """Return the version number of the next export into the folder `model`: the highest existing number plus one."""
    if not model.is_dir():
        return 1
    return max((int(path.name) for path in model.iterdir() if path.name.isdecimal()), default=0) + 1


def require_identical_shared_files(model: Path, shared: Mapping[str, bytes]) -> None:
    """Reject an existing model folder whose shared files differ from `shared`. Raises: RepositoryConflictError."""
    for name, content in shared.items():
        path = model / name
        if model.exists() and (not path.is_file() or path.read_bytes() != content):
            raise RepositoryConflictError(
                f"{path} {_difference(path, content)}. All versions of a model share this file: "
                "choose another --name, or move the existing model away."
            )


def _difference(path: Path, content: bytes) -> str:
    """Describe the first line of the file that differs from `content`."""
    if not path.is_file():
        return "does not exist"
    existing, expected = (text.decode("utf-8", "replace").splitlines() for text in (path.read_bytes(), content))
    for number, lines in enumerate(itertools.zip_longest(existing, expected), 1):
        if lines[0] != lines[1]:
            file_line, export_line = ("no such line" if line is None else f"'{line.strip()}'" for line in lines)
            return f"differs in line {number}: this export has {export_line}, the file has {file_line}"
    return "has different line endings than this export"


def require_writable(model: Path) -> None:
    """Reject a model folder that cannot be written. Raises: RepositoryError."""
    if model.parent.resolve().name in (REPORTS, EDGE):
        raise RepositoryError(
            f"{model.parent} cannot be a model repository: exports write {REPORTS}/ and {EDGE}/ beside a repository, "
            "and so into this one; choose another name with --to."
        )
    for target in (model.parent, model):
        ancestor = next(path for path in (target, *target.absolute().parents) if os.path.lexists(path))
        if not ancestor.is_dir():
            raise RepositoryError(f"cannot write {model}: {ancestor} is not a folder; choose another with --to.")
        if not os.access(ancestor, os.W_OK | os.X_OK):
            raise TargetError(f"cannot write {model}: no write permission for {ancestor}; nothing was changed.")


def write_version(model: Path, shared: Mapping[str, bytes], files: Mapping[str, bytes]) -> Path:
    """Write `files`, by path in the version's folder, as the next version of `model`, and return that folder.

    Raises: RepositoryError.
    """
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        with _staging(model.parent) as staging:
            _write(staging / STAGED_MODEL / "1", files)
            _write(staging / STAGED_MODEL, shared)
            return _publish(staging / STAGED_MODEL, model, shared)
    except OSError as error:
        raise TargetError(f"cannot write {model}: {error.strerror or error}; nothing was changed.") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as `folder`, which must not exist. Raises: RepositoryError."""
    if folder.exists():
        raise RepositoryError(f"{folder} already exists: move it away.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder.parent) as staging:
            _write(staging / STAGED_MODEL, files)
            (staging / STAGED_MODEL).rename(folder)
    except OSError as error:
        raise TargetError(f"cannot write {folder}: {error.strerror or error}; nothing was changed.") from error


def _publish(staged: Path, model: Path, shared: Mapping[str, bytes]) -> Path:
    """Rename the staged model, or its only version, to its final path; retry if another export took the version."""
    for _ in range(MAX_ATTEMPTS):
        require_identical_shared_files(model, shared)
        source, target = (staged / "1", model / str(next_version(model))) if model.exists() else (staged, model)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return target if source.name == "1" else model / "1"
    raise RepositoryError(f"other exports are writing into {model}: try again after they have finished.")


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
    """Yield a hidden folder on the same file system, and remove it with its contents at the end."""
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the staging folders of exports that were killed."""
    for folder in parent.glob(f"{STAGING_PREFIX}*"):
        with suppress(FileNotFoundError):  # another export may remove it at the same time
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
