"""Build docs/cnn.md: the claims of lecture notes on convolution, and what the software computes for each.

`python -m docs.cnn.build` writes the page; with `--check` it only checks whether the page is current.
"""

import contextlib
import io
import os
import shlex
import sys
import textwrap
from pathlib import Path
from unittest import mock

import typer

from docs.cnn.claims import CLAIMS, Claim
from zoo.cli import inspect
from zoo.errors import ZooError

WIDTH = "120"  # of the tables
PAGE = Path(__file__).resolve().parents[1] / "cnn.md"

HEAD = """# Why convolution: the claims, and the numbers

Lecture notes on convolutional networks make a series of claims, not all of them right. Each is listed here with a
verdict and with a command, or a few lines of Python, that computes it, followed by the output. This page is generated
by `python -m docs.cnn.build`; `tests/docs/test_cnn.py` checks each figure, the one in the notes and the right one.
"""


def page() -> str:
    """Return the page in Markdown."""
    with mock.patch.dict(os.environ, {"COLUMNS": WIDTH}):
        return "\n".join([HEAD, *map(_section, CLAIMS)])


def command_output(command: str) -> str:
    """Return what `zoonnx COMMAND` prints, or its error message."""
    verb, *arguments = shlex.split(command)
    app = typer.Typer(add_completion=False)
    app.command()(getattr(inspect, verb))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            app(arguments, standalone_mode=False)
        except ZooError as error:
            return f"zoonnx {verb}: {error}"
    return _strip_lines(output.getvalue())


def code_output(code: str) -> str:
    """Return what a claim's Python code prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})  # noqa: S102  the code is in docs/cnn/claims.py
    return _strip_lines(output.getvalue())


def _section(claim: Claim) -> str:
    examples = [f"```console\n$ zoonnx {command}\n{command_output(command)}\n```\n" for command in claim.commands]
    if claim.code:
        examples.append(f"```python\n{claim.code}\n```\n\n```text\n{code_output(claim.code)}\n```\n")
    paragraphs = (f"**The notes:** {claim.notes}", f"**In fact:** {claim.verdict}")
    return "\n".join([f"## {claim.title}\n", *(f"{textwrap.fill(text, 120)}\n" for text in paragraphs), *examples])


def _strip_lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def main(arguments: list[str]) -> int:
    """Write the page, or check it, and return the exit status."""
    current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
    if arguments == ["--check"]:
        if not current:
            sys.stderr.write("docs/cnn.md is out of date: run python -m docs.cnn.build\n")
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
