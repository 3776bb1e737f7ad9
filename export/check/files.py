"""Checks that every file is unchanged, and that none contains an absolute path.

A changed bit in any file is detected: the manifest records the SHA-256 of all other files and of its own fields, and
only one JSON layout is accepted for it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from export.artifact.manifest_json import canonical_sha256, serialize
from export.check.artifact import Artifact, read_regular_file
from export.check.results import CheckResult, Failure
from protos.files import CONFIG, LABELS, MANIFEST
from protos.keys import LAYERS_KEY

CHUNK_BYTES = 1 << 20
# A path of two or more names that starts at the root or at a drive. After a letter, a colon or a slash it is part of a
# URL or of a relative path.
ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'(\[=,;])(?:(?:file://)?/[\w.+-]+/[\w./+-]+|[A-Za-z]:[\\/]+[\w./\\+-]+)")
ABSOLUTE_PATH_IN_BINARY = re.compile(rb"/(?:home|root|tmp|usr|var|opt|mnt|Users|private|workspace)/[\w./+-]{2,}")
TEXT_FILES = (CONFIG, LABELS, MANIFEST)


def read_manifest(folder: Path) -> tuple[Any, CheckResult]:
    """Return the fields of a version's manifest, None if it is missing or broken, and the result of its check."""
    check, details = "manifest", "own hash and layout"
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        return None, CheckResult.not_run(check, f"no {MANIFEST}: the expected bytes are unknown")
    try:
        content = read_regular_file(path)
        fields = json.loads(content.decode("utf-8"))
        failures = [Failure(str(path), message) for message in layout_errors(fields, content)]
    except (ValueError, RecursionError) as error:
        failures = [Failure(str(path), f"cannot be read as JSON: {error}")]
    except OSError as error:
        failures = [Failure(str(path), f"cannot be read: {error.strerror}")]
    return (None if failures else fields), CheckResult.from_failures(check, details, failures)


def layout_errors(fields: Any, content: bytes) -> Iterator[str]:
    """Yield the errors in the layout of a manifest, or of another file list that contains its own hash."""
    if not isinstance(fields, dict):
        yield "is JSON, but not a manifest"
    elif fields.get("sha256") != canonical_sha256(fields):
        yield "its fields do not match the hash that it records: changed after the export"
    elif serialize(fields).encode() != content:
        yield "not in the JSON layout that zoonnx writes: changed after the export"


def check_files(artifact: Artifact) -> CheckResult:
    """Compare each file with the manifest; look for files that the manifest does not list."""
    recorded = {entry.path: entry for entry in artifact.manifest.files} if artifact.manifest else {}
    failures = []
    for path, entry in sorted(recorded.items()):
        if _is_outside(path):
            message = "listed in the manifest, but outside the model's folder"
        else:
            message = difference(artifact.folder / path, entry.bytes, entry.sha256)
        failures += [Failure(_display_path(artifact, path), message)] if message else []
    listed = {_location(artifact.folder / path) for path in (*recorded, MANIFEST)}
    unlisted = [path for path in (*artifact.file_paths, *artifact.unknown_folders) if _location(path) not in listed]
    failures += [Failure(str(path), f"not listed in {MANIFEST}: move it away") for path in unlisted]
    total = sum(entry.bytes for entry in recorded.values())
    details = f"size and SHA-256 of {len(recorded)} files, {total:,} bytes; no other files"
    return CheckResult.from_failures("files", details, failures)


def _location(path: Path) -> Path:
    """Return the resolved folder and the name of a file; the file itself may be a link."""
    return path.parent.resolve() / path.name


def _is_outside(path: str) -> bool:
    """Return whether a listed path is outside the model's folder; `..` is allowed only as its first part."""
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts[1:]:
        return True
    return parts[0] == ".." and len(parts) != 2


def difference(path: Path, size: int, sha256: str, source: str = MANIFEST) -> str:
    """Return how a file differs from the size and hash in the file list `source`; empty if it does not."""
    if not path.is_file():
        return "not a regular file" if path.is_dir() or path.is_symlink() else "missing"
    if path.stat().st_size != size:
        return f"expected {size:,} bytes ({source}), got {path.stat().st_size:,}"
    return "" if _sha256(path) == sha256 else f"SHA-256 differs from the one in {source}: changed or damaged"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _display_path(artifact: Artifact, path: str) -> str:
    return str(artifact.model_folder / path[3:] if path.startswith("../") else artifact.folder / path)


def check_paths(artifact: Artifact) -> CheckResult:
    """Look for absolute paths, which reveal details of the exporting machine; labels may look like paths."""
    if not artifact.manifest:
        return CheckResult.not_run("paths", "not exported by zoonnx: it may contain absolute paths")
    allowed = "\n".join((*artifact.manifest.labels, *(output.name for output in artifact.manifest.outputs)))
    failures = []
    for file in artifact.file_paths:
        path = next((path for path in _absolute_paths(artifact, file) if path not in allowed), None)
        if path is not None:
            failures.append(Failure(str(file), f"contains an absolute path: {path}"))
    return CheckResult.from_failures("paths", "no absolute path in any file", failures)


def _absolute_paths(artifact: Artifact, file: Path) -> Iterator[str]:
    if not file.is_file():
        return  # reported by check_files
    if file.name in TEXT_FILES:
        yield from _paths_in_text(file.read_text("utf-8"))
    elif file == artifact.model_path:
        for text in _strings(artifact.model):
            yield from _paths_in_text(text)
    else:
        content = file.read_bytes()
        yield from (match[0].decode("ascii", "replace") for match in ABSOLUTE_PATH_IN_BINARY.finditer(content))


def _paths_in_text(text: str) -> Iterator[str]:
    return (match[0].strip("\"'([=,; \n") for match in ABSOLUTE_PATH.finditer(text))


def _strings(message: Message) -> Iterator[str]:
    """Yield every string in a protobuf message and its nested messages; weights are skipped."""
    for field, value in message.ListFields():
        values: Iterable[Any] = [value] if isinstance(value, str | bytes | int | float | Message) else value
        if field.type == field.TYPE_MESSAGE:
            for inner in values:
                yield from _strings(inner)
        elif field.type == field.TYPE_STRING:
            yield from values
        elif field.type == field.TYPE_BYTES and isinstance(message, onnx.AttributeProto):
            yield from (item.decode("utf-8", "replace") for item in values)


def check_origin(artifact: Artifact) -> CheckResult:
    """Fail if a model without a manifest was exported by zoonnx; models of other exporters have none."""
    failures = []
    if LAYERS_KEY in artifact.metadata:
        message = "missing, although zoonnx exported the model beside it: export it again"
        failures.append(Failure(str(artifact.folder / MANIFEST), message))
    return CheckResult.from_failures("origin", "the model has no metadata of zoonnx", failures)
