"""Checks the files for devices in edge/REPOSITORY/NAME/VERSION against the hashes in files.json.

files.json records the SHA-256 of each file and of itself, as a manifest does. The outputs of these files were compared
when they were built; `.ort` files cannot be inspected here.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.check.artifact import read_regular_file
from export.check.files import difference, layout_errors
from export.check.results import CheckResult, Failure, VersionReport
from export.names import EDGE_FILES


def is_edge(folder: Path) -> bool:
    """Return whether a version's folder holds files for devices."""
    return (folder / EDGE_FILES).is_file()


def check_edge(folder: Path) -> VersionReport:
    """Compare each file with files.json, and files.json with its own hash and its folder."""
    fields, list_result = _read_list(folder / EDGE_FILES)
    results = (list_result,) if fields is None else (list_result, _check_files(folder, fields["files"]))
    return VersionReport(str(folder), int(folder.name), True, results)


def _read_list(path: Path) -> tuple[Any, CheckResult]:
    try:
        content = read_regular_file(path)
        fields = json.loads(content.decode("utf-8"))
        messages = [*layout_errors(fields, content)] or [*_folder_errors(fields["of"], path.resolve().parent)]
    except (ValueError, RecursionError) as error:
        messages = [f"cannot be read as JSON: {error}"]
    failures = [Failure(str(path), message) for message in messages]
    result = CheckResult.from_failures("list", f"own hash and layout of {EDGE_FILES}", failures)
    return (None if failures else fields), result


def _folder_errors(original: Mapping[str, Any], folder: Path) -> Iterator[str]:
    actual, recorded = f"{folder.parent.name}/{folder.name}", f"{original['name']}/{original['version']}"
    if actual != recorded:
        yield f"expected in a folder {recorded}, but it is in {actual}"


def _check_files(folder: Path, recorded: Mapping[str, Mapping[str, Any]]) -> CheckResult:
    failures = [
        Failure(str(folder / name), message)
        for name, entry in sorted(recorded.items())
        if (message := difference(folder / name, int(entry["bytes"]), str(entry["sha256"]), EDGE_FILES))
    ]
    unlisted = sorted({path.name for path in folder.iterdir()} - recorded.keys() - {EDGE_FILES})
    failures += [Failure(str(folder / name), f"not listed in {EDGE_FILES}: move it away") for name in unlisted]
    return CheckResult.from_failures("files", f"size and SHA-256 of {len(recorded)} files; no other files", failures)
