"""ARCHITECTURE.md, CONTRIBUTING.md and the decisions name files and tests that are there."""

import re

import pytest

from tests.conftest import ROOT

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def test_each_invariant_names_a_real_test() -> None:
    """Every invariant ends with the test that holds it."""
    invariants = ARCHITECTURE.split("## Invariants")[1].split("\n## ")[0]
    entries = re.split(r"^- ", invariants, flags=re.MULTILINE)[1:]
    assert len(entries) >= 30
    for entry in entries:
        named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", entry)
        assert named, entry
        for file, parts in named:
            source = (ROOT / file).read_text()
            assert all(re.search(rf"(class|def) {part}\b", source) for part in parts.split("::") if part), file + parts


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_each_path_exists(page: str) -> None:
    """Every path of the repository that a page names is there."""
    text = (ROOT / page).read_text()
    paths = re.findall(r"`((?:zoo|export|serve|protos|tests|docs|bench)/[\w./]*)", text)
    assert len(paths) > 10
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def test_each_sub_package_has_a_paragraph() -> None:
    """ARCHITECTURE.md explains every folder of the packages that holds code."""
    folders = {
        file.parent.relative_to(ROOT).as_posix()
        for package in ("zoo", "export", "serve")
        for file in (ROOT / package).glob("*/__init__.py")
    }
    assert [folder for folder in sorted(folders) if f"`{folder}/`" not in ARCHITECTURE] == []


def test_each_decision_is_listed() -> None:
    """docs/decisions/README.md links every page."""
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    assert [page.name for page in sorted(folder.glob("[0-9]*.md")) if f"]({page.name})" not in index] == []
