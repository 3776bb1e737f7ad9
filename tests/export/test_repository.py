"""Versions appear whole or not at all."""

import os
from pathlib import Path

import pytest

from export import repository
from export.errors import RepositoryConflictError, RepositoryError

SHARED = {"config.pbtxt": b"config"}
FILES = {"model.onnx": b"model", "test_data_set_0/input_0.pb": b"input"}


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_versions_count_up(tmp_path: Path) -> None:
    """The next version is one above the highest, whatever else lies there."""
    model = tmp_path / "m"
    assert repository.next_version(model) == 1
    for name in ("2", "10", "notes", ".staging-x"):
        (model / name).mkdir(parents=True)
    assert repository.next_version(model) == 11


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails while files are written, the repository is as it was."""
    repository.write_version(tmp_path / "m", 1, SHARED, FILES)
    before = below(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RepositoryError, match=r"cannot write .*: No space left on device; nothing was changed"):
        repository.write_version(tmp_path / "m", 2, SHARED, FILES)
    with pytest.raises(RepositoryError):
        repository.write_version(tmp_path / "new", 1, SHARED, FILES)
    assert below(tmp_path) == before


def test_written_version_never_changes(tmp_path: Path) -> None:
    """A version that stands there is not written over, even when two exports chose the same number."""
    repository.write_version(tmp_path / "m", 1, SHARED, FILES)
    with pytest.raises(RepositoryError):
        repository.write_version(tmp_path / "m", 1, SHARED, {"model.onnx": b"other"})
    assert (tmp_path / "m/1/model.onnx").read_bytes() == b"model"


def test_target_is_a_file(tmp_path: Path) -> None:
    """A file where the repository should be is named."""
    (tmp_path / "models").write_text("not a folder")
    with pytest.raises(RepositoryError, match="models/m"):
        repository.write_version(tmp_path / "models" / "m", 1, SHARED, FILES)


def test_conflict_names_the_file(tmp_path: Path) -> None:
    """Shared files that differ are refused by name."""
    repository.write_version(tmp_path / "m", 1, SHARED, FILES)
    with pytest.raises(RepositoryConflictError, match=r"config\.pbtxt differs"):
        repository.write_version(tmp_path / "m", 2, {"config.pbtxt": b"other"}, FILES)
