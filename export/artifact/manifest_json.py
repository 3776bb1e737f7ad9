"""manifest.json: the promise of a version, and the hashes that hold it to that."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from protos import manifest
from protos.version import SCHEMA_VERSION as SCHEMA_VERSION


def to_json(message: manifest.Manifest) -> str:
    """Return `message` as it stands on disk."""
    return written(_fields(message))


def written(fields: Mapping[str, Any]) -> str:
    """Return a manifest's fields in the one form in which they are written."""
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def canonical_sha256(fields: Mapping[str, Any]) -> str:
    """Return the hash of a manifest's fields without their own `sha256`: sorted keys, no spaces, UTF-8.

    It is taken of the fields as they stand on disk, so that a reader can check fields that it does not know.
    """
    bare = {name: value for name, value in fields.items() if name != "sha256"}
    canonical = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(message: manifest.Manifest, contents: Mapping[str, bytes]) -> None:
    """Write the files' hashes, then the manifest's own, into `message`."""
    del message.files[:]
    message.files.extend(
        manifest.File(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for path, content in sorted(contents.items())
    )
    message.sha256 = canonical_sha256(_fields(message))


def _fields(message: manifest.Manifest) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
