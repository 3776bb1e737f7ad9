"""A version appears in the repository completely or not at all."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export.artifact import repository
from export.errors import RepositoryConflictError, RepositoryError, TargetError

SHARED = {"config.pbtxt": b"config"}
FILES = {"model.onnx": b"model", "test_data_set_0/input_0.pb": b"input"}


def paths_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_next_version(tmp_path: Path) -> None:
    """The next version is the highest number plus one; other files and folders are ignored."""
    model = tmp_path / "m"
    assert repository.next_version(model) == 1
    for name in ("2", "10", "notes", ".staging-x"):
        (model / name).mkdir(parents=True)
    assert repository.next_version(model) == 11


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fails during writing, the repository stays unchanged."""
    repository.write_version(tmp_path / "m", SHARED, FILES)
    before = paths_below(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TargetError, match=r"cannot write .*: No space left on device; nothing was changed"):
        repository.write_version(tmp_path / "m", SHARED, FILES)
    with pytest.raises(RepositoryError):
        repository.write_version(tmp_path / "new", SHARED, FILES)
    assert paths_below(tmp_path) == before


def test_written_version_never_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another export takes the version number meanwhile, this one takes the next; neither overwrites the other."""
    repository.write_version(tmp_path / "m", SHARED, FILES)
    real_next_version = repository.next_version
    outdated = iter([1, 1])
    monkeypatch.setattr(repository, "next_version", lambda model: next(outdated, None) or real_next_version(model))
    folder = repository.write_version(tmp_path / "m", SHARED, {"model.onnx": b"other"})
    assert folder == tmp_path / "m" / "2"
    assert (tmp_path / "m/1/model.onnx").read_bytes() == b"model"
    assert (folder / "model.onnx").read_bytes() == b"other"


def test_concurrent_exports(tmp_path: Path) -> None:
    """Concurrent exports into the same new model all become versions of it."""
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: repository.write_version(tmp_path / "m", SHARED, FILES), range(16)))
    assert sorted(int(folder.name) for folder in folders) == list(range(1, 17))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_target_is_a_file(tmp_path: Path) -> None:
    """The error names a file that is in the repository's place."""
    (tmp_path / "models").write_text("not a folder")
    with pytest.raises(RepositoryError, match="models/m"):
        repository.write_version(tmp_path / "models" / "m", SHARED, FILES)


def test_conflict_names_the_file(tmp_path: Path) -> None:
    """The error names the shared file and the first line that differ."""
    repository.write_version(tmp_path / "m", {"labels.txt": b"cat\ndog\n"}, FILES)
    for other, message in (
        (b"cat\nbird\n", r"labels\.txt differs in line 2: this export has 'bird', the file has 'dog'\. All versions"),
        (b"cat\n", "differs in line 2: this export has no such line, the file has 'dog'"),
        (b"cat\r\ndog\n", "has different line endings than this export"),
    ):
        with pytest.raises(RepositoryConflictError, match=message):
            repository.write_version(tmp_path / "m", {"labels.txt": other}, FILES)
    with pytest.raises(RepositoryConflictError, match=r"config\.pbtxt does not exist"):
        repository.write_version(tmp_path / "m", SHARED, FILES)


def test_abandoned_staging_folders_are_removed(tmp_path: Path) -> None:
    """The staging folder of a killed export is removed after a day; that of a running export stays."""
    for name, age_s in ((".staging-old", 2 * repository.ABANDONED_S), (".staging-new", 60)):
        (tmp_path / name / "model").mkdir(parents=True)
        modified = time.time() - age_s
        os.utime(tmp_path / name, (modified, modified))
    repository.write_version(tmp_path / "m", SHARED, FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging-new", "m"]


def test_unwritable_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the path and the reason; missing folders are accepted, because they can be created."""
    repository.require_writable(tmp_path / "a" / "b" / "m")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r": .*/file is not a folder; choose another with --to") as caught:
        repository.require_writable(tmp_path / "file" / "models" / "m")
    assert caught.value.exit_status == 2
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(TargetError, match=f"no write permission for {tmp_path}; nothing was changed"):
        repository.require_writable(tmp_path / "models" / "m")


def test_write_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is written completely or not at all, never over another; abandoned staging folders are removed."""
    (tmp_path / "m" / ".staging-old").mkdir(parents=True)
    os.utime(tmp_path / "m" / ".staging-old", (0, 0))
    repository.write_folder(tmp_path / "m" / "1", FILES)
    before = paths_below(tmp_path)
    assert before == ["m", "m/1", *(f"m/1/{name}" for name in ("model.onnx", "test_data_set_0", *list(FILES)[1:]))]
    with pytest.raises(RepositoryError, match=r"/m/1 already exists"):
        repository.write_folder(tmp_path / "m" / "1", FILES)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TargetError, match="No space left on device; nothing was changed") as caught:
        repository.write_folder(tmp_path / "m" / "2", FILES)
    assert caught.value.exit_status == 1
    assert paths_below(tmp_path) == before
