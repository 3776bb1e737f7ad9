"""The documentation's pages, their code blocks and the commands that they show."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))


def script(page: Path) -> str:
    """Return the page's shell and Python blocks, in order, as one bash script."""
    blocks = re.findall(r"^```(shell|python)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [text if kind == "shell" else f"python -W error - <<'PYTHON'\n{text}PYTHON\n" for kind, text in blocks]
    return "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "".join(lines)


def commands(page: Path) -> list[str]:
    """Return every line of a code block, run or only shown, that calls zoonnx."""
    shown = re.findall(r"^(?: {4}|\$ )?zoonnx (\w+(?: .*)?)$", page.read_text(), flags=re.MULTILINE)
    return [re.sub(r"( {2,}\S.*| #.*| > \S+| &)$", "", line) for line in shown]


@functools.cache
def help_of(verb: str) -> str:
    """Return what `zoonnx VERB --help` prints."""
    command = [sys.executable, "-m", "zoonnx", verb, "--help"]
    environment = {**os.environ, "COLUMNS": "200"}  # narrow columns break long option names
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True).stdout
