"""Files for devices, as they stand in edge/NAME/VERSION: every byte against the hashes beside them.

files.json holds the SHA-256 of each file and its own, as a manifest does. What the files compute was measured when
they were made; `.ort` files cannot be read here.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.check.artifact import read_plain
from export.check.files import difference, form_faults
from export.check.results import Fault, Finding, VersionReport, found
from export.names import EDGE_FILES


def is_edge(folder: Path) -> bool:
    """Whether files for devices stand in a version's folder."""
    return (folder / EDGE_FILES).is_file()


def check_edge(folder: Path) -> VersionReport:
    """Compare each file with files.json, and that with its own hash and its place."""
    fields, own = _read(folder / EDGE_FILES)
    findings = (own,) if fields is None else (own, _check_files(folder, fields["files"]))
    return VersionReport(str(folder), int(folder.name), True, findings)


def _read(path: Path) -> tuple[Any, Finding]:
    try:
        content = read_plain(path)
        fields = json.loads(content.decode("utf-8"))
        words = [*form_faults(fields, content)] or [*_place_faults(fields["of"], path.resolve().parent)]
    except (ValueError, RecursionError) as error:
        words = [f"it cannot be read as JSON: {error}"]
    faults = [Fault(str(path), each) for each in words]
    return (None if faults else fields), found("list", f"{EDGE_FILES}: its own hash and its form", faults)


def _place_faults(of: Mapping[str, Any], folder: Path) -> Iterator[str]:
    stands = f"{folder.parent.name}/{folder.name}"
    if f"{of['name']}/{of['version']}" != stands:
        yield f"it is of {of['name']}, version {of['version']}, but stands in {stands}"


def _check_files(folder: Path, promised: Mapping[str, Mapping[str, Any]]) -> Finding:
    faults = [
        Fault(str(folder / name), words)
        for name, entry in sorted(promised.items())
        if (words := difference(folder / name, int(entry["bytes"]), str(entry["sha256"]), EDGE_FILES))
    ]
    extra = sorted({path.name for path in folder.iterdir()} - promised.keys() - {EDGE_FILES})
    faults += [Fault(str(folder / name), f"{EDGE_FILES} does not name it: move it away") for name in extra]
    return found("files", f"size and SHA-256 of {len(promised)} files; none more", faults)
