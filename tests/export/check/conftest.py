"""A small model that an older zoonnx wrote, and functions that change it."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.artifact.manifest_json import canonical_sha256, serialize
from tests.conftest import ROOT

SCHEMA_1 = ROOT / "tests" / "data" / "schema1" / "models" / "bottleneck4"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the model's folder."""
    return Path(shutil.copytree(SCHEMA_1, tmp_path / "bottleneck4"))


def reseal(version: Path, change: Callable[[dict[str, Any]], None] = lambda fields: None) -> None:
    """Change a manifest and update all its hashes, like an attacker who knows the format."""
    path = version / "manifest.json"
    fields = json.loads(path.read_text("utf-8"))
    for file in fields["files"]:
        content = (version / file["path"]).read_bytes()
        file["sha256"], file["bytes"] = sha256(content).hexdigest(), str(len(content))
    change(fields)
    fields["sha256"] = canonical_sha256(fields)
    path.write_text(serialize(fields), "utf-8")


def change_model(model: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the ONNX file of the first version and update the hashes."""
    path = model / "1" / "model.onnx"
    proto = onnx.load(path)
    change(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    reseal(model / "1")
