"""The pages of the benchmarks can be written from the results that are stored beside them."""

import json
from typing import Any

from bench import export, label_noise, probe, train
from tests.conftest import ROOT


def stored(name: str) -> Any:
    """Return the results of the last run of a benchmark."""
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())["results"]


def test_training() -> None:
    """Speed and accuracy of the training loop."""
    assert "| " in train.page(**stored("train"))


def test_export() -> None:
    """The cost of an export's checks."""
    assert "| resnet18 |" in export.page(stored("export"))


def test_probe() -> None:
    """The cached probe."""
    assert "| " in probe.page(stored("probe"))


def test_label_noise() -> None:
    """How many wrong labels are found."""
    assert "| " in label_noise.page(stored("label_noise"))
