"""The page about exports does what it says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def test_python_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's example runs as it stands, and writes what it says."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(compile(block, "export.md", "exec"), {})
    assert (tmp_path / "models" / "small" / "labels.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "reports" / "small" / "1" / "export.md").exists()
