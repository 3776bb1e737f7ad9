"""The export matrix: every network of the catalog, and backbones of many families, exported with all checks."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench import matrix
from bench.matrix import PAGE, Cost, Row, measure, page, read, write
from bench.networks import BACKBONES, NETWORKS, MatrixNetwork
from zoo.catalog import CATALOG

# The largest accepted numbers of layers that are not in the file, and of module outputs with too few shape witnesses,
# by network; 0 for all others.
NOT_EXPORTED = {
    "resnest14d": 4,
    "dpn48b": 4,
    "eca_nfnet_l0": 1,
    "levit_128s": 1,
    "xcit_nano_12_p16_224": 1,
    "pit_ti_224": 2,
}
TOO_FEW_WITNESSES = {"edgenext_xx_small": 1}


def network_id(network: MatrixNetwork) -> str:
    return network.name


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=network_id)
def test_exports(network: MatrixNetwork) -> None:
    """The network is exported, its modules' shapes are verified, and every called module is in the layer map."""
    require(measure(network))


def require(row: Row) -> None:
    """Assert that a row has the guarantees of the matrix."""
    assert (row.refused, tuple(row.unaccounted)) == ("", ())
    assert 0 < row.parity <= 1
    assert row.module_outputs - row.module_outputs_verified <= TOO_FEW_WITNESSES.get(row.name, 0)
    assert row.layers.keys() <= {"exact", "alias", "folded", "not_exported"}
    assert row.layers.get("not_exported", 0) == len(row.not_exported) <= NOT_EXPORTED.get(row.name, 0)
    assert all(row.not_exported.values())
    assert row.layers["exact"] > row.called / 3


def test_every_measured_row() -> None:
    """The rows in bench/results meet the requirements of the slow tests."""
    for row in read().values():
        require(row)


def test_the_matrix_is_wide() -> None:
    """The matrix has every network of the catalog, and at least 48 backbones of 20 families, without repetition."""
    names = [network.name for network in NETWORKS]
    assert len(set(names)) == len(names) == len(CATALOG) + len(BACKBONES)
    assert names[: len(CATALOG)] == list(CATALOG)
    assert len(BACKBONES) >= 48
    assert len({network.family for network in BACKBONES}) >= 20


def test_the_page_matches_the_measurements() -> None:
    """docs/matrix.md is generated from bench/results, and names the networks that are missing there."""
    rows = read()
    assert list(rows) == [network.name for network in NETWORKS if network.name in rows]
    assert len(rows) > len(NETWORKS) / 2
    assert PAGE.read_text() == page(list(rows.values()))


def test_rows_are_read_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read as written, so that an interrupted run can be continued."""
    rows = read()
    monkeypatch.setattr(matrix, "ROWS", tmp_path / "matrix.json")
    write(rows)
    assert read() == rows


def test_the_cost_at_224_is_measured_for_networks_of_any_size() -> None:
    """A network with smaller images in the matrix is measured at 224, once; one of a single size is not."""
    small, fixed = MatrixNetwork("resnet18", "ResNet", 64), MatrixNetwork("vit_tiny_patch16_224", "ViT")
    row = Row("n", "family", (3, 64, 64), cost=Cost(2.0, 1.0, 900))
    assert [matrix.needs_large(network, row) for network in (small, fixed)] == [True, False]
    assert not matrix.needs_large(small, replace(row, large=Cost(4.0, 2.0, 2345)))
    assert not matrix.needs_large(small, replace(row, refused="an error"))


def test_cells_of_costs() -> None:
    """A cost is shown as seconds, the ratio to a bare export, and memory; one that was not measured is empty."""
    assert [cost.cells for cost in (Cost(4.0, 2.5, 2345), Cost())] == [("4.0", "1.6", "2,345"), ("", "", "")]


def process_row(_network: MatrixNetwork) -> Row:
    return Row("process", str(os.getpid()), ())


def test_measures_in_a_process_of_its_own() -> None:
    """A measurement runs in a new process, so that its memory is its own."""
    assert matrix.apart(process_row, MatrixNetwork("mlp", "catalog")).family != str(os.getpid())
