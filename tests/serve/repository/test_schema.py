"""Tests that exports of older schema versions are served, and those of newer ones rejected."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from serve.client.preprocessing import Preprocessing
from serve.engine.session import Session
from serve.errors import BadModelError
from serve.repository.layer_index import read_layers
from tests.conftest import ROOT
from tests.serve.conftest import read_models

SCHEMA_1 = ROOT / "tests" / "data" / "schema1" / "models"


def test_schema_1_is_served() -> None:
    """Labels, preprocessing, layers and outputs of a schema-1 export are unchanged."""
    (files,) = read_models(SCHEMA_1)
    version = files.candidates[0].read()
    assert version.manifest is not None
    assert files.labels["logits"][:3] == ["nul", "één", "twee"]
    assert files.config is not None
    preprocessing = Preprocessing.from_parameters(files.config.parameters)
    assert preprocessing == Preprocessing(channels=1, height=8, width=8, mean=(0.5,))
    data = {path.stem: onnx.load_tensor(path) for path in version.path.parent.glob("test_data_set_0/*.pb")}
    image = numpy_helper.to_array(data["input_0"])
    session = Session.open(version.path, "cpu")
    assert read_layers(version.path, session.metadata).value("stem.act") == "stem.act"
    logits = session.run({"image": image}, ["logits"])["logits"]
    np.testing.assert_allclose(logits, numpy_helper.to_array(data["output_0"]), rtol=1e-4, atol=1e-5)


def test_newer_schema_is_rejected(tmp_path: Path) -> None:
    """The error has the file's schema version and the remedy."""
    shutil.copytree(SCHEMA_1, tmp_path / "models")
    path = tmp_path / "models" / "bottleneck4" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "schema_version": 99}), "utf-8")
    (files,) = read_models(tmp_path / "models")
    with pytest.raises(
        BadModelError, match=r"schema_version 99; this zoonnx reads versions up to \d+: install a newer"
    ):
        files.candidates[0].read()
