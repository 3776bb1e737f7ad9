"""The export matrix: every network of the catalog and backbones of many families, from PyTorch to a checked repository."""

from pathlib import Path

import pytest

from bench import matrix
from bench.matrix import PAGE, Row, measure, page, read, write
from bench.networks import BACKBONES, NETS, Net
from zoo.catalog import CATALOG

# Layers whose output stands nowhere in the file, and module outputs whose shape too few witnesses know: no more of
# them, and of no other networks.
NOT_EXPORTED = {
    "resnest14d": 4,
    "dpn48b": 4,
    "eca_nfnet_l0": 1,
    "levit_128s": 1,
    "xcit_nano_12_p16_224": 1,
    "pit_ti_224": 2,
}
TOO_FEW_WITNESSES = {"edgenext_xx_small": 1}


def by_name(network: Net) -> str:
    return network.name


@pytest.mark.slow
@pytest.mark.parametrize("network", NETS, ids=by_name)
def test_exports(network: Net) -> None:
    """The network passes the gate, its modules' shapes are verified, and no called module is left unaccounted for."""
    require(measure(network))


def require(row: Row) -> None:
    """Hold a row to what the matrix promises."""
    assert (row.refused, tuple(row.unaccounted)) == ("", ())
    assert 0 < row.parity <= 1
    assert row.module_outputs - row.module_outputs_verified <= TOO_FEW_WITNESSES.get(row.name, 0)
    assert row.layers.keys() <= {"exact", "alias", "folded", "not_exported"}
    assert row.layers.get("not_exported", 0) == len(row.not_exported) <= NOT_EXPORTED.get(row.name, 0)
    assert all(row.not_exported.values())
    assert row.layers["exact"] > row.called / 3


def test_every_row_of_the_page_holds() -> None:
    """What was measured holds what the slow tests ask for."""
    for row in read().values():
        require(row)


def test_the_matrix_is_wide() -> None:
    """The whole catalog, and 48 backbones or more of 20 families or more, each once."""
    names = [network.name for network in NETS]
    assert len(set(names)) == len(names) == len(CATALOG) + len(BACKBONES)
    assert names[: len(CATALOG)] == list(CATALOG)
    assert len(BACKBONES) >= 48
    assert len({network.family for network in BACKBONES}) >= 20


def test_the_page_is_what_was_measured() -> None:
    """docs/matrix.md is made from the figures in bench/results, and names the networks that it lacks."""
    rows = read()
    assert list(rows) == [network.name for network in NETS if network.name in rows]
    assert len(rows) > len(NETS) / 2
    assert PAGE.read_text() == page(list(rows.values()))


def test_rows_survive_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are written are read again as they were, so that a run can go on where it stopped."""
    rows = read()
    monkeypatch.setattr(matrix, "ROWS", tmp_path / "matrix.json")
    write(rows)
    assert read() == rows
