"""manifest.json: the promise of a version, and the hashes that hold it to that."""

import hashlib
import json
from collections.abc import Mapping

from google.protobuf import json_format

from protos import manifest

SCHEMA_VERSION = 1


def to_json(message: manifest.Manifest) -> str:
    """Return `message` as it stands on disk."""
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def canonical_sha256(message: manifest.Manifest) -> str:
    """Return the hash of the manifest without its own `sha256`: sorted keys, no spaces, UTF-8."""
    bare = manifest.Manifest()
    bare.CopyFrom(message)
    bare.ClearField("sha256")
    fields = json_format.MessageToDict(bare, preserving_proto_field_name=True)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(message: manifest.Manifest, contents: Mapping[str, bytes]) -> None:
    """Write the files' hashes, then the manifest's own, into `message`."""
    del message.files[:]
    message.files.extend(
        manifest.File(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for path, content in sorted(contents.items())
    )
    message.sha256 = canonical_sha256(message)
