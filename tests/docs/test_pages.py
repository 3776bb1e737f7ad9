"""Every page's code blocks run, and every command that it shows exists."""

import re
from pathlib import Path

import pytest

import zoonnx
from tests.conftest import ROOT
from tests.docs.conftest import Shell
from tests.docs.pages import PAGES, README, commands, help_of, script

OTHER_TOOLS = {"--nproc-per-node"}  # torchrun's


@pytest.mark.first
@pytest.mark.timeout(400)
class TestBlocks:
    """The blocks of a page run from top to bottom, in the folder that the README leaves behind."""

    def test_readme(self, workspace: Path) -> None:
        """It trains, exports, serves and queries; the class of each image is found."""
        assert "ready: 1 model on grpc" in (workspace / "readme.txt").read_text()
        assert (workspace / "layers.png").exists()

    @pytest.mark.parametrize("page", ["training", "serving", "inspect", "export", "edge", "python"])
    def test_page(self, shell: Shell, workspace: Path, page: str) -> None:
        """Each command and each Python block of the page succeeds."""
        prepare = "cp models/digits/1/model.onnx .\n" if page == "edge" else ""
        done = shell(prepare + script(ROOT / "docs" / f"{page}.md"))
        assert done.returncode == 0, done.stdout + done.stderr

    def test_export_writes_what_the_page_lists(self, workspace: Path) -> None:
        """Each file that docs/export.md lists is there."""
        listed = re.findall(r"^    ((?:reports/)?models/NAME\S+)", (ROOT / "docs/export.md").read_text(), re.MULTILINE)
        assert len(listed) == 6
        assert [file for file in listed if not (workspace / file.replace("NAME", "digits")).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_exists(page: Path) -> None:
    """Each verb and each option of the commands that a page shows is one of zoonnx's."""
    for command in commands(page):
        verb, *words = command.split()
        assert verb in {*zoonnx.VERBS, "VERB"}, command
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert [option for option in options if verb != "VERB" and option not in help_of(verb)] == [], command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link of a page names a file that is there."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("verb", zoonnx.VERBS)
def test_every_verb_is_documented(verb: str) -> None:
    """docs/index.md lists it, with the page that explains it."""
    row = re.search(rf"^\| `zoonnx {verb}` \|.*\]\((\S+)\) \|$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert row
    assert re.search(rf"zoonnx {verb}\b|make {verb}\b", (ROOT / "docs" / row[1]).read_text())


def test_training_options_exist() -> None:
    """Each option that docs/training.md mentions belongs to `train`, `tune`, `eval`, `export` or to torchrun."""
    mentioned = set(re.findall(r"--[a-z]+(?:-[a-z0-9]+)*", (ROOT / "docs/training.md").read_text()))
    known = " ".join(help_of(verb) for verb in ("train", "tune", "eval", "export"))
    assert {option for option in mentioned if option not in known} == OTHER_TOOLS


def test_readme_fits_one_screen() -> None:
    """Its prose has at most 450 words."""
    text = re.sub(r"```.*?```", "", README.read_text(), flags=re.DOTALL)
    prose = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    assert 200 < len(prose.split()) <= 450


class TestDataPage:
    """docs/data.md."""

    PAGE = (ROOT / "docs/data.md").read_text()

    def test_it_names_every_dataset(self) -> None:
        """Built-in datasets, every known one of torchvision, and every file name extension of an image."""
        from zoo.data.image_io import SUFFIXES
        from zoo.data.registry import SOURCES
        from zoo.data.torchvision import LAYOUTS

        assert [name for name in (*SOURCES, *LAYOUTS, *SUFFIXES) if not re.search(rf"{name}\b", self.PAGE)] == []

    def test_its_table_of_labels_is_read(self, tmp_path: Path) -> None:
        """As the page describes."""
        from zoo.data.labels_csv import read_table

        (table,) = re.findall(r"```csv\n(.*?)```", self.PAGE, flags=re.DOTALL)
        (tmp_path / "labels.csv").write_text(table)
        rows = read_table(tmp_path)
        assert rows[0].labels == {"bird", "sky"}
        assert [row.split for row in rows] == ["train", "train", "test", "val", "train", "train"]


def test_troubleshooting_quotes_real_messages() -> None:
    """Each message that docs/troubleshooting.md explains stands in the code, or comes from another package."""
    foreign = {"operator torchvision::nms does not exist", "RESOURCE_EXHAUSTED"}
    page = (ROOT / "docs/troubleshooting.md").read_text()
    quoted = {" ".join(text.split()) for text in re.findall(r"\*\*`([^`]+)`\*\*", page)} - foreign
    code = (
        "\n".join(file.read_text() for folder in ("zoo", "export", "serve") for file in (ROOT / folder).rglob("*.py"))
        + (ROOT / "zoonnx.py").read_text()
    )
    joined = re.sub(r'"\s+f?"', "", code)  # strings that continue on the next line
    assert len(quoted) > 20
    assert [text for text in sorted(quoted) if text not in joined] == []
