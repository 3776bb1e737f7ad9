"""Atomic writes of files and folders."""

from pathlib import Path

import pytest

from zoo.storage.atomic_io import backup_path, folder_or_backup, new_folder, write_file


def write_folder(path, text):
    """Write the folder `path` with one file."""
    with new_folder(path) as unfinished:
        (unfinished / "text").write_text(text)


def names(folder):
    """Return the names in a folder, sorted."""
    return sorted(entry.name for entry in folder.iterdir())


def test_file_is_replaced(tmp_path):
    """A write replaces the old file and leaves no other file."""
    write_file(tmp_path / "a", b"old")
    write_file(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"new", ["a"])


def test_an_open_file_does_not_change(tmp_path):
    """A reader that opened the old file reads its old content."""
    write_file(tmp_path / "a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        write_file(tmp_path / "a", b"new")
        assert reader.read() == b"old"


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """A disk error before the rename leaves the old file and no other."""
    write_file(tmp_path / "a", b"old")
    monkeypatch.setattr("zoo.storage.atomic_io.os.fsync", raise_disk_error)
    with pytest.raises(OSError, match="disk"):
        write_file(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"old", ["a"])


def test_folder_is_replaced(tmp_path):
    """A write replaces the old folder and leaves no other folder."""
    write_folder(tmp_path / "f", "old")
    write_folder(tmp_path / "f", "new")
    assert ((tmp_path / "f" / "text").read_text(), names(tmp_path)) == ("new", ["f"])


def test_failed_block_leaves_the_old_folder(tmp_path):
    """An exception inside the block leaves the old folder and no other."""
    write_folder(tmp_path / "f", "old")
    with pytest.raises(TypeError):
        write_folder(tmp_path / "f", text=None)
    assert ((tmp_path / "f" / "text").read_text(), names(tmp_path)) == ("old", ["f"])


def test_old_folder_is_found_between_the_renames(tmp_path, monkeypatch):
    """If a writer stops between the two renames, readers find the old folder."""
    write_folder(tmp_path / "f", "old")
    rename = Path.rename

    def rename_or_fail(self, to):
        return raise_disk_error() if self.suffix == ".new" else rename(self, to)

    monkeypatch.setattr(Path, "rename", rename_or_fail)
    with pytest.raises(OSError, match="disk"):
        write_folder(tmp_path / "f", "new")
    assert not (tmp_path / "f").exists()
    assert (folder_or_backup(tmp_path / "f") / "text").read_text() == "old"


def test_the_next_write_removes_the_backup(tmp_path):
    """A write after such a stop leaves the new folder only."""
    write_folder(backup_path(tmp_path / "f"), "old")
    write_folder(tmp_path / "f", "new")
    write_folder(tmp_path / "f", "newer")
    assert ((folder_or_backup(tmp_path / "f") / "text").read_text(), names(tmp_path)) == ("newer", ["f"])


def raise_disk_error(*_):
    """Fail as a broken disk does."""
    raise OSError("disk")
