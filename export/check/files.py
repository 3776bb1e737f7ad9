"""Bytes: every file is the one that was written, and none holds a path of a machine.

A changed bit shows in any file: the manifest holds the SHA-256 of all others, its own of its fields, and it must stand
in the one form in which it is written, so that no byte of it is free.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from export.artifact.manifest_json import canonical_sha256, written
from export.check.artifact import Subject, read_plain
from export.check.results import Fault, Finding, found
from export.names import CONFIG, LABELS, LAYERS_KEY, MANIFEST

CHUNK_BYTES = 1 << 20
# A path of two names or more that begins at the root or at a drive: what stands behind a letter, a colon or a slash is
# part of an address or of a relative path.
ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'(\[=,;])(?:(?:file://)?/[\w.+-]+/[\w./+-]+|[A-Za-z]:[\\/]+[\w./\\+-]+)")
IN_BINARY = re.compile(rb"/(?:home|root|tmp|usr|var|opt|mnt|Users|private|workspace)/[\w./+-]{2,}")
TEXTS = (CONFIG, LABELS, MANIFEST)


def read_manifest(folder: Path) -> tuple[Any, Finding]:
    """Return a version's manifest as it stands on disk, None where it is absent or broken, and what was found."""
    name = "manifest"
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        return None, Finding(name, "not done", f"there is no {MANIFEST}: nothing says which bytes are the right ones")
    try:
        content = read_plain(path)
        fields = json.loads(content.decode("utf-8"))
        faults = [Fault(str(path), words) for words in form_faults(fields, content)]
    except (ValueError, RecursionError) as error:
        return None, found(name, "its form", [Fault(str(path), f"it cannot be read as JSON: {error}")])
    except OSError as error:
        return None, found(name, "its form", [Fault(str(path), f"it cannot be read: {error.strerror}")])
    return (None if faults else fields), found(name, "its own hash and its form", faults)


def form_faults(fields: Any, content: bytes) -> Iterator[str]:
    """Say what is wrong with a manifest, or another list that holds its own hash."""
    if not isinstance(fields, dict):
        yield "it is JSON, but no manifest"
    elif fields.get("sha256") != canonical_sha256(fields):
        yield "its fields do not have the hash that it names itself: it was changed after the export"
    elif written(fields).encode() != content:
        yield "it does not stand in the form in which zoonnx writes it: it was changed after the export"


def check_files(subject: Subject) -> Finding:
    """Compare each file with the manifest; look for files that it does not name."""
    promised = {entry.path: entry for entry in subject.promise.files} if subject.promise else {}
    faults = []
    for path, entry in sorted(promised.items()):
        words = _outside(path) or difference(subject.folder / path, entry.bytes, entry.sha256)
        faults += [Fault(_shown(subject, path), words)] if words else []
    known = {_place(subject.folder / path) for path in (*promised, MANIFEST)}
    extra = [path for path in (*subject.paths, *subject.strange_folders) if _place(path) not in known]
    faults += [Fault(str(path), f"{MANIFEST} does not name it: move it away") for path in extra]
    total = sum(entry.bytes for entry in promised.values())
    return found("files", f"size and SHA-256 of {len(promised)} files, {total:,} bytes; none more", faults)


def _place(path: Path) -> Path:
    """Where a file stands, wherever it leads as a link."""
    return path.parent.resolve() / path.name


def _outside(path: str) -> str:
    """Refuse names that lead out of the model's folder."""
    parts = Path(path).parts
    inside = not Path(path).is_absolute() and ".." not in parts[1:] and (parts[:1] != ("..",) or len(parts) == 2)
    return "" if inside and parts else "the manifest names a file outside the model's folder"


def difference(path: Path, size: int, sha256: str, of: str = MANIFEST) -> str:
    """Say how a file differs from what the list `of` promises; nothing where it does not."""
    if not path.is_file():
        return "it is no file" if path.is_dir() or path.is_symlink() else "it is missing"
    if path.stat().st_size != size:
        return f"it has {path.stat().st_size:,} bytes; {of} promises {size:,}"
    return "" if _sha256(path) == sha256 else f"its SHA-256 is not the one in {of}: it was changed or damaged"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _shown(subject: Subject, path: str) -> str:
    return str(subject.shared / path[3:] if path.startswith("../") else subject.folder / path)


def check_paths(subject: Subject) -> Finding:
    """Look for absolute paths, which say on whose machine a model was made; a label may look like one."""
    if not subject.promise:
        return Finding("paths", "not done", "what others made may hold paths of their machines")
    names = "\n".join((*subject.promise.labels, *(output.name for output in subject.promise.outputs)))
    faults = [
        Fault(str(path), f"it holds an absolute path of a machine: {words}")
        for path in subject.paths
        for words in [each for each in _absolute_paths(subject, path) if each not in names][:1]
    ]
    return found("paths", "no absolute path in any file", faults)


def _absolute_paths(subject: Subject, path: Path) -> Iterator[str]:
    if not path.is_file():
        return  # which is a fault of its own
    if path.name in TEXTS:
        yield from _in_text(path.read_text("utf-8"))
    elif path == subject.model_path:
        for text in _strings(subject.model):
            yield from _in_text(text)
    else:
        yield from (match[0].decode("ascii", "replace") for match in IN_BINARY.finditer(path.read_bytes()))


def _in_text(text: str) -> Iterator[str]:
    return (match[0].strip("\"'([=,; \n") for match in ABSOLUTE_PATH.finditer(text))


def _strings(message: Message) -> Iterator[str]:
    """Every string of a protobuf message, down to the innermost; weights are numbers and left out."""
    for field, value in message.ListFields():
        values: Iterable[Any] = [value] if isinstance(value, str | bytes | int | float | Message) else value
        if field.type == field.TYPE_MESSAGE:
            for inner in values:
                yield from _strings(inner)
        elif field.type == field.TYPE_STRING:
            yield from values
        elif field.type == field.TYPE_BYTES and isinstance(message, onnx.AttributeProto):
            yield from (each.decode("utf-8", "replace") for each in values)


def check_origin(subject: Subject) -> Finding:
    """A file of ours without its manifest is a fault; a model that others made has none."""
    ours = LAYERS_KEY in subject.metadata
    words = f"{MANIFEST} is missing, but the model beside it was exported by zoonnx: export it again"
    faults = [Fault(str(subject.folder / MANIFEST), words)] if ours else []
    return found("origin", "a model that others made", faults)
