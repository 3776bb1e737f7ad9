"""The hash of a manifest covers all its fields and does not depend on their order."""

import json
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from export.artifact.manifest_json import canonical_sha256, seal, serialize, to_json
from protos.manifest import Manifest, Parity
from tests.conftest import ROOT

SCALARS = st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
FIELDS = st.dictionaries(st.text(), SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS), max_size=8)


@given(FIELDS, st.randoms())
def test_hash_ignores_field_order(fields: dict, random) -> None:
    """The same fields in another order have the same hash."""
    names = list(fields)
    random.shuffle(names)
    assert canonical_sha256({name: fields[name] for name in names}) == canonical_sha256(fields)


@given(FIELDS, st.text(), SCALARS)
def test_hash_covers_every_value(fields: dict, name: str, value) -> None:
    """A changed value or an additional field changes the hash; only the field `sha256` itself is excluded."""
    changed = {**fields, name: [value, "changed"]}
    assert (canonical_sha256(changed) == canonical_sha256(fields)) == (name == "sha256" or changed == fields)
    assert canonical_sha256({**fields, "sha256": str(value)}) == canonical_sha256(fields)


@given(FIELDS)
def test_serialize_is_stable(fields: dict) -> None:
    """Parsing and serialising a manifest again gives the same bytes and the same hash."""
    text = serialize(fields)
    assert serialize(json.loads(text)) == text
    assert canonical_sha256(json.loads(text)) == canonical_sha256(fields)


def test_seal_matches_the_file() -> None:
    """The hash in a sealed manifest is the hash that a reader of the file computes."""
    manifest = Manifest(schema_version=1, name="m", labels=["één"], parity=Parity())
    manifest.parity.checks.add(batch=2, output="logits", max_abs_error=8.94e-08)
    seal(manifest, {"model.onnx": b"model", "../labels.txt": b"labels"})
    assert canonical_sha256(json.loads(to_json(manifest))) == manifest.sha256


def test_hash_ignores_the_hash_seed() -> None:
    """Processes with different values of PYTHONHASHSEED compute the same hash."""
    code = (
        "from export.artifact.manifest_json import canonical_sha256\n"
        "print(canonical_sha256({n: {m: 1 for m in set('abcdef')} for n in {'x', 'y', 'z', 'sha256'}}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3", "random")
    }
    assert len(outputs) == 1
