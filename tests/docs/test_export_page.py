"""The page about exports does what it says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's examples run as they stand, one after the other, and write what they say."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "export.md", "exec"), {})
    assert (tmp_path / "models" / "small" / "labels.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "reports" / "small" / "1" / "export.md").exists()
