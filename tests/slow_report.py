"""`make slow`: runs the slow-marked tests and writes a dated table of them to bench/results/."""

import datetime
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def main() -> int:
    """Return pytest's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-m", "slow", "--timeout=1800", f"--junitxml={junit}", *sys.argv[1:]]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if junit.exists():
            table = RESULTS / f"slow-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_text("\n".join(["| test | outcome | seconds |", "|---|---|---|", *rows(junit), ""]))
            sys.stdout.write(f"{table.relative_to(ROOT)}\n")
    return status


def rows(junit: Path) -> Iterator[str]:
    """One line of the table for each test of a JUnit report, by name."""
    cases = ElementTree.parse(junit).iter("testcase")
    for case in sorted(cases, key=lambda case: (case.get("classname", ""), case.get("name", ""))):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        name = f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
        yield f"| {name} | {outcome} | {float(case.get('time', 0)):.1f} |"


if __name__ == "__main__":
    sys.exit(main())
