"""The pages of the benchmarks can be written from the results that are stored beside them."""

import json
from typing import Any

from bench import backbones, export, foreign_files, label_noise, probe, request_path, train
from bench.networks import NETWORKS
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


def test_backbones() -> None:
    """Layers of backbones over the wire: none is wrong, and the families are not in the matrix."""
    rows = backbones.read()
    assert "| cspnext_s |" in backbones.page(list(rows.values()))
    assert [row.name for row in rows.values() if row.wrong] == []
    assert len([row for row in rows.values() if not row.failed]) >= 24
    assert {row.family for row in rows.values()}.isdisjoint(network.family for network in NETWORKS)


def test_foreign_files() -> None:
    """Layer names in files of torch.onnx: none is wrong."""
    results = stored("foreign_files")
    assert "| resnet18 | dynamo |" in foreign_files.page(results)
    assert [result for result in results if not result["failed"] and result["wrong"]] == []


def test_request_path() -> None:
    """What a request costs the server."""
    assert "| native | lenet | 8 | 1 |" in request_path.page(stored("request_path"))
