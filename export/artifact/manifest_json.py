"""Serialises manifest.json and computes the hashes that detect later changes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from protos.manifest import File, Manifest


def to_json(manifest: Manifest) -> str:
    """Return the text of manifest.json."""
    return serialize(_fields(manifest))


def serialize(fields: Mapping[str, Any]) -> str:
    """Return the fields of a manifest in the only JSON layout that zoonnx writes."""
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def canonical_sha256(fields: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's fields without their own `sha256`: sorted keys, no spaces, UTF-8.

    It covers the fields as they are on disk, so that a reader can verify fields of a newer schema.
    """
    hashed_fields = {name: value for name, value in fields.items() if name != "sha256"}
    canonical = json.dumps(hashed_fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Set the hash of each file in `contents`, by path, and then the hash of the manifest itself."""
    del manifest.files[:]
    manifest.files.extend(
        File(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for path, content in sorted(contents.items())
    )
    manifest.sha256 = canonical_sha256(_fields(manifest))


def _fields(manifest: Manifest) -> dict[str, Any]:
    return json_format.MessageToDict(manifest, preserving_proto_field_name=True)
