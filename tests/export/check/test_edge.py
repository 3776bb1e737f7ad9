"""Files for devices: every byte of them is held to what was written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.check.run import check_model
from export.variants.write import read_original, write_edge

FILES = {"model.ort": bytes(range(200)), "required_operators.config": b"ai.onnx;20;Conv\n"}


@pytest.fixture
def edge(model: Path) -> Path:
    """The model's folder for devices, beside its repository."""
    repository = model.parent / "models"
    shutil.copytree(model, repository / model.name)
    return write_edge(read_original(repository / model.name / "1"), FILES).parent


def faults(place: Path) -> list[str]:
    return [f"{Path(fault.file).name}: {fault.words}" for report in check_model(place) for fault in report.faults]


def test_whole(edge: Path) -> None:
    """What was written holds, by its name and by its version."""
    assert (faults(edge), faults(edge / "1")) == ([], [])


def test_a_changed_bit(edge: Path) -> None:
    """A changed bit in any file is found, wherever it is, and the file named."""
    for path in sorted((edge / "1").iterdir()):
        content = path.read_bytes()
        for place in range(0, len(content), 7):
            changed = bytearray(content)
            changed[place] ^= 1 << place % 8
            path.write_bytes(changed)
            assert faults(edge)[0].startswith(f"{path.name}: "), (path.name, place)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda edge: (edge / "1" / "model.ort").unlink(), "model.ort: it is missing"),
        (lambda edge: (edge / "1" / "b").mkdir(), "b: files.json does not name it: move it away"),
        (lambda edge: (edge / "1").rename(edge / "2"), "files.json: it is of bottleneck4, version 1, but stands in"),
        (lambda edge: (edge / "1" / "files.json").write_text("[]"), "files.json: it is JSON, but no"),
    ],
)
def test_changes(edge: Path, change: Callable[[Path], object], words: str) -> None:
    """What is missing, added, or stands elsewhere is found."""
    change(edge)
    (found,) = faults(edge)
    assert found.startswith(words)
