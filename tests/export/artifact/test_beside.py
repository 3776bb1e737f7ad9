"""Reports and files for devices are beside the repository, and never in the place of another repository's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from export.artifact.beside import edge_folder, report_folder
from export.artifact.repository import require_writable
from export.errors import RepositoryError

Folder = Callable[[Path, str, int], Path]


@pytest.mark.parametrize("folder", [report_folder, edge_folder])
def test_repositories_of_one_folder_keep_apart(tmp_path: Path, folder: Folder) -> None:
    """The same model and version in two sibling repositories have different folders, outside both of them."""
    folders = [folder(tmp_path / name, "digits", 1) for name in ("A", "B")]
    assert [str(path.relative_to(tmp_path)) for path in folders] == [
        f"{folders[0].relative_to(tmp_path).parts[0]}/{name}/digits/1" for name in ("A", "B")
    ]


@pytest.mark.parametrize("folder", [report_folder, edge_folder])
def test_one_repository_has_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Folder) -> None:
    """However its path is written, also through a link, a repository has one place."""
    (tmp_path / "models").mkdir()
    (tmp_path / "link").symlink_to("models")
    monkeypatch.chdir(tmp_path / "models")
    paths = [tmp_path / "models", tmp_path / "link", Path(), Path("../models"), Path("../link/")]
    assert len({folder(path, "digits", 1) for path in paths}) == 1


@pytest.mark.parametrize("name", ["reports", "edge"])
def test_reserved_names(tmp_path: Path, name: str) -> None:
    """A repository cannot be a folder into which other exports write reports or files for devices."""
    with pytest.raises(RepositoryError, match=f"{name} cannot be a model repository"):
        require_writable(tmp_path / name / "digits")
