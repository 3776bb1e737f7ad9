"""Files and folders that appear whole or not at all."""

from pathlib import Path

import pytest

from zoo.storage.atomic_io import fallback, new_folder, standing_folder, write_file


def write_folder(path, text):
    """Fill `path` with one file."""
    with new_folder(path) as unfinished:
        (unfinished / "text").write_text(text)


def names(folder):
    """The names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_file_is_replaced(tmp_path):
    """The new text stands, and nothing beside it."""
    write_file(tmp_path / "a", b"old")
    write_file(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"new", ["a"])


def test_an_open_file_stays_as_it_was(tmp_path):
    """A reader in the middle of the old text reads it to its end."""
    write_file(tmp_path / "a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        write_file(tmp_path / "a", b"new")
        assert reader.read() == b"old"


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """A disk that fails before the rename costs nothing."""
    write_file(tmp_path / "a", b"old")
    monkeypatch.setattr("zoo.storage.atomic_io.os.fsync", failing)
    with pytest.raises(OSError, match="disk"):
        write_file(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"old", ["a"])


def test_folder_is_replaced(tmp_path):
    """The new folder stands, and nothing beside it."""
    write_folder(tmp_path / "f", "old")
    write_folder(tmp_path / "f", "new")
    assert ((tmp_path / "f" / "text").read_text(), names(tmp_path)) == ("new", ["f"])


def test_failed_block_leaves_the_old_folder(tmp_path):
    """An error while the folder is filled leaves no trace."""
    write_folder(tmp_path / "f", "old")
    with pytest.raises(TypeError):
        write_folder(tmp_path / "f", text=None)
    assert ((tmp_path / "f" / "text").read_text(), names(tmp_path)) == ("old", ["f"])


def test_old_folder_is_found_between_the_renames(tmp_path, monkeypatch):
    """A writer that dies with the old folder moved away and the new one not yet in place loses nothing."""
    write_folder(tmp_path / "f", "old")
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: failing() if self.suffix == ".new" else rename(self, to))
    with pytest.raises(OSError, match="disk"):
        write_folder(tmp_path / "f", "new")
    assert not (tmp_path / "f").exists()
    assert (standing_folder(tmp_path / "f") / "text").read_text() == "old"


def test_writing_again_clears_the_fallback(tmp_path):
    """After such an accident the next write puts all in order."""
    write_folder(fallback(tmp_path / "f"), "old")
    write_folder(tmp_path / "f", "new")
    write_folder(tmp_path / "f", "newer")
    assert ((standing_folder(tmp_path / "f") / "text").read_text(), names(tmp_path)) == ("newer", ["f"])


def failing(*_):
    """A disk at fault."""
    raise OSError("disk")
