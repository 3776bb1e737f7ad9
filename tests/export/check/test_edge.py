"""Checks of the files for devices."""

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


def failures(folder: Path) -> list[str]:
    return [
        f"{Path(failure.file).name}: {failure.message}" for report in check_model(folder) for failure in report.failures
    ]


def test_unchanged(edge: Path) -> None:
    """Unchanged files pass, for the model's folder and for the version's folder."""
    assert (failures(edge), failures(edge / "1")) == ([], [])


def test_changed_bit(edge: Path) -> None:
    """A changed bit anywhere in any file is detected, and the file is named."""
    for path in sorted((edge / "1").iterdir()):
        content = path.read_bytes()
        for position in range(0, len(content), 7):
            changed = bytearray(content)
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            assert failures(edge)[0].startswith(f"{path.name}: "), (path.name, position)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda edge: (edge / "1" / "model.ort").unlink(), "model.ort: missing"),
        (lambda edge: (edge / "1" / "b").mkdir(), "b: not listed in files.json: move it away"),
        (lambda edge: (edge / "1").rename(edge / "2"), "files.json: expected in a folder bottleneck4/1, but it is in"),
        (lambda edge: (edge / "1" / "files.json").write_text("[]"), "files.json: is JSON, but not"),
    ],
)
def test_changed_folder(edge: Path, change: Callable[[Path], object], expected: str) -> None:
    """A missing, additional, moved or broken file is detected."""
    change(edge)
    (message,) = failures(edge)
    assert message.startswith(expected)
