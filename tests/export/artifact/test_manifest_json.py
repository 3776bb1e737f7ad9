"""The manifest's own hash: of what it says, whatever the order in which it says it."""

import json
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from export.artifact.manifest_json import canonical_sha256, seal, to_json, written
from protos import manifest
from tests.conftest import ROOT

SCALARS = st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
FIELDS = st.dictionaries(st.text(), SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS), max_size=8)


@given(FIELDS, st.randoms())
def test_order_does_not_count(fields: dict, random) -> None:
    """The same fields in another order have the same hash."""
    names = list(fields)
    random.shuffle(names)
    assert canonical_sha256({name: fields[name] for name in names}) == canonical_sha256(fields)


@given(FIELDS, st.text(), SCALARS)
def test_every_value_counts(fields: dict, name: str, value) -> None:
    """Another value, or a further field, has another hash; only its own is left out."""
    changed = {**fields, name: [value, "changed"]}
    assert (canonical_sha256(changed) == canonical_sha256(fields)) == (name == "sha256" or changed == fields)
    assert canonical_sha256({**fields, "sha256": str(value)}) == canonical_sha256(fields)


@given(FIELDS)
def test_the_written_form_is_one(fields: dict) -> None:
    """What is read from the written form is written again byte for byte, and has the same hash."""
    text = written(fields)
    assert written(json.loads(text)) == text
    assert canonical_sha256(json.loads(text)) == canonical_sha256(fields)


def test_the_seal_is_that_of_the_file() -> None:
    """The hash that a manifest is sealed with is the one that a reader of the file computes."""
    promise = manifest.Manifest(schema_version=1, name="m", labels=["één"], parity=manifest.Parity())
    promise.parity.checks.add(batch=2, output="logits", max_abs_error=8.94e-08)
    seal(promise, {"model.onnx": b"model", "../labels.txt": b"labels"})
    assert canonical_sha256(json.loads(to_json(promise))) == promise.sha256


def test_hash_seeds_do_not_count() -> None:
    """Processes with other hash seeds agree."""
    code = (
        "from export.artifact.manifest_json import canonical_sha256\n"
        "print(canonical_sha256({n: {m: 1 for m in set('abcdef')} for n in {'x', 'y', 'z', 'sha256'}}))"
    )
    said = {
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
    assert len(said) == 1
