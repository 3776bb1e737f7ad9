"""Exports are reproducible: another process with another hash seed writes the same bytes."""

import os
import random
import subprocess
import sys
from pathlib import Path

from export import Exported
from tests.conftest import ROOT

EXPORT = """
import sys
from dataclasses import replace
from pathlib import Path
from export import ExportSettings, export_model
from tests.export.conftest import randomize_batch_norms
from zoo import load_network
loaded = load_network("convnet4", seed=3)
randomize_batch_norms(loaded.network)
loaded = replace(loaded, labels=tuple(map(str, range(10))))
export_model(loaded, ExportSettings(to=Path(sys.argv[1]), name="tiny"))
"""


def contents(model: Path) -> dict[str, bytes]:
    return {str(path.relative_to(model)): path.read_bytes() for path in sorted(model.rglob("*")) if path.is_file()}


def test_another_process_writes_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    """All files, shared ones included, are equal for another hash seed, target folder and home folder."""
    seed = str(random.SystemRandom().randrange(1, 2**32))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "models")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=150)
    assert contents(tmp_path / "models" / "tiny") == contents(exported.folder.parent)
