"""Versions appear whole or not at all."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export.artifact import repository
from export.errors import RepositoryConflictError, RepositoryError, TargetError

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
    repository.write_version(tmp_path / "m", SHARED, FILES)
    before = below(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TargetError, match=r"cannot write .*: No space left on device; nothing was changed"):
        repository.write_version(tmp_path / "m", SHARED, FILES)
    with pytest.raises(RepositoryError):
        repository.write_version(tmp_path / "new", SHARED, FILES)
    assert below(tmp_path) == before


def test_written_version_never_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another export takes the number in between, this one takes the next; neither writes over the other."""
    repository.write_version(tmp_path / "m", SHARED, FILES)
    honest = repository.next_version
    seen = iter([1, 1])
    monkeypatch.setattr(repository, "next_version", lambda model: next(seen, None) or honest(model))
    folder = repository.write_version(tmp_path / "m", SHARED, {"model.onnx": b"other"})
    assert folder == tmp_path / "m" / "2"
    assert (tmp_path / "m/1/model.onnx").read_bytes() == b"model"
    assert (folder / "model.onnx").read_bytes() == b"other"


def test_exports_at_once(tmp_path: Path) -> None:
    """Exports into one new model at the same time all become versions of it."""
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: repository.write_version(tmp_path / "m", SHARED, FILES), range(16)))
    assert sorted(int(folder.name) for folder in folders) == list(range(1, 17))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_target_is_a_file(tmp_path: Path) -> None:
    """A file where the repository should be is named."""
    (tmp_path / "models").write_text("not a folder")
    with pytest.raises(RepositoryError, match="models/m"):
        repository.write_version(tmp_path / "models" / "m", SHARED, FILES)


def test_conflict_names_the_file(tmp_path: Path) -> None:
    """Shared files that differ are refused by name, with the line that does."""
    repository.write_version(tmp_path / "m", {"labels.txt": b"cat\ndog\n"}, FILES)
    for other, words in (
        (b"cat\nbird\n", r"labels\.txt has 'dog' in line 2, this export 'bird', and all versions"),
        (b"cat\n", "has 'dog' in line 2, this export nothing"),
        (b"cat\r\ndog\n", "has other line ends than this export"),
    ):
        with pytest.raises(RepositoryConflictError, match=words):
            repository.write_version(tmp_path / "m", {"labels.txt": other}, FILES)
    with pytest.raises(RepositoryConflictError, match=r"config\.pbtxt is not there"):
        repository.write_version(tmp_path / "m", SHARED, FILES)


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    """A day later; what another export writes just now stays."""
    for name, age_s in ((".staging-old", 2 * repository.ABANDONED_S), (".staging-new", 60)):
        (tmp_path / name / "model").mkdir(parents=True)
        then = time.time() - age_s
        os.utime(tmp_path / name, (then, then))
    repository.write_version(tmp_path / "m", SHARED, FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging-new", "m"]


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with the reason; folders that are still to be made are none."""
    repository.require_writable(tmp_path / "a" / "b" / "m")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r"because .*/file is no folder: give another place") as caught:
        repository.require_writable(tmp_path / "file" / "models" / "m")
    assert caught.value.exit_status == 2
    monkeypatch.setattr(os, "access", lambda place, _mode: place != tmp_path)  # root may write everywhere
    with pytest.raises(TargetError, match=f"because of {tmp_path}: nothing can be written there"):
        repository.require_writable(tmp_path / "models" / "m")


def test_a_folder_stands_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices get: no half of it on a full disk, none over another, and nobody's staging stays for ever."""
    (tmp_path / "m" / ".staging-old").mkdir(parents=True)
    os.utime(tmp_path / "m" / ".staging-old", (0, 0))
    repository.write_folder(tmp_path / "m" / "1", FILES)
    before = below(tmp_path)
    assert before == ["m", "m/1", *(f"m/1/{name}" for name in ("model.onnx", "test_data_set_0", *list(FILES)[1:]))]
    with pytest.raises(RepositoryError, match=r"/m/1 stands there already"):
        repository.write_folder(tmp_path / "m" / "1", FILES)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TargetError, match="No space left on device; nothing was changed") as caught:
        repository.write_folder(tmp_path / "m" / "2", FILES)
    assert caught.value.exit_status == 1
    assert below(tmp_path) == before
