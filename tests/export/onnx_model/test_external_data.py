"""Weights that are too large for one file with the graph are stored in a separate file; nothing else changes."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import Exported, ExportSettings, export_model
from export.check.run import check_model
from export.errors import SettingsError
from export.onnx_model import external_data
from export.onnx_model.runtime import Runtime, value_names
from export.variants.runner import plan
from export.variants.settings import VariantSettings
from export.verify import symbolic_shapes
from serve.client.sync import Client
from tests.conftest import ROOT
from tests.export.artifact.test_reproducible import contents
from tests.export.test_pipeline import VERSION_FILES, files_below, read_manifest
from zoo import LoadedNetwork

LIMIT_BYTES = 10_000  # less than the weights of convnet4


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a model as large from LIMIT_BYTES on."""
    monkeypatch.setattr(external_data, "EXTERNAL_FROM_BYTES", LIMIT_BYTES)


@pytest.fixture(scope="module")
def large(convnet4: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The same export as `exported`, with its weights in a separate file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_data, "EXTERNAL_FROM_BYTES", LIMIT_BYTES)
        to = tmp_path_factory.mktemp("large") / "models"
        return export_model(convnet4, ExportSettings(to=to, name="tiny"))


def infer_with_server(models: Path, images: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
    command = [sys.executable, "-m", "zoonnx", "serve", str(models), "--grpc-port", "0", "--provider", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout
            url = re.fullmatch(r"ready: 1 model on grpc (\S+)\n", server.stdout.readline())
            assert url
            with Client(url[1], timeout_s=20) as client:
                return dict(client.infer("tiny", {"image": images}, outputs))
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=20)


def test_separate_file(large: Exported, exported: Exported) -> None:
    """The weights are in model.onnx.data, a relative path, each at the start of a page; the manifest lists the file."""
    assert files_below(large.folder) == sorted([*VERSION_FILES, "model.onnx.data"])
    assert "model.onnx.data" in {file.path for file in read_manifest(large.folder).files}
    graph = onnx.load(large.folder / "model.onnx", load_external_data=False).graph
    locations = [{entry.key: entry.value for entry in weight.external_data} for weight in graph.initializer]
    external = [location for location in locations if location]
    assert external
    assert {location["location"] for location in external} == {"model.onnx.data"}
    assert all(int(location["offset"]) % 4096 == 0 for location in external)
    sizes = [(large.folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data")]
    assert large.model_bytes == sum(sizes)
    assert sizes[0] < exported.model_bytes - LIMIT_BYTES


def test_nothing_else_differs(large: Exported, exported: Exported) -> None:
    """With its weights loaded, the model equals the small one bit by bit; the manifests differ only in the files."""
    models = [onnx.load(export.folder / "model.onnx") for export in (large, exported)]
    weights = [{weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer} for model in models]
    assert list(weights[0]) == list(weights[1])
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    for model in models:
        del model.graph.initializer[:]
    assert models[0] == models[1]
    manifests = [read_manifest(export.folder) for export in (large, exported)]
    for manifest in manifests:
        del manifest.files[:]
        manifest.sha256 = ""
    assert manifests[0] == manifests[1]


def test_flipped_bit(large: Exported, tmp_path: Path) -> None:
    """All checks pass, and a changed bit in the weights is detected."""
    (report,) = check_model(large.folder.parent)
    assert list(report.failures) == []
    path = large.folder / "model.onnx.data"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    try:
        (report,) = check_model(large.folder.parent)
    finally:
        path.write_bytes(content)
    assert {failure.file for failure in report.failures} == {str(path)}


def test_server(large: Exported, exported: Exported) -> None:
    """A real server returns for the large model the outputs and the layer that a session of the small one computes."""
    images = np.random.default_rng(7).integers(0, 256, (4, 8, 8, 1), np.uint8)
    layer = next(layer for layer in exported.manifest.layer_map.layers if layer.value)
    outputs = ["logits", "probabilities", layer.name]
    responses = infer_with_server(large.folder.parent.parent, images, outputs)
    small = onnx.load(exported.folder / "model.onnx")
    expected = Runtime(small, [layer.value]).run({"image": images}, ["logits", "probabilities", layer.value])
    for name, array in zip(outputs, expected.values(), strict=True):
        np.testing.assert_allclose(responses[name], array, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("small_limit")
def test_reproducible(large: Exported, convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """Two exports of a large network write the same files."""
    again = export_model(convnet4, ExportSettings(to=tmp_path / "models", name="tiny"))
    assert contents(again.folder.parent) == contents(large.folder.parent)


@pytest.mark.usefixtures("small_limit")
def test_no_message_holds_the_weights(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Session, checker and writing never serialise the weights of a large model together with its graph."""
    model = onnx.load(exported.folder / "model.onnx")
    sizes = []
    serialise = onnx.ModelProto.SerializeToString

    def serialise_and_record(message: onnx.ModelProto, **options: bool) -> bytes:
        content = serialise(message, **options)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", serialise_and_record)
    Runtime(model, value_names(model), optimise=False)
    external_data.check(model)
    files = external_data.model_files(model)
    assert len(sizes) == 3
    assert max(sizes) < exported.model_bytes - LIMIT_BYTES
    assert len(files["model.onnx.data"]) > LIMIT_BYTES


@pytest.mark.usefixtures("small_limit")
def test_checker(exported: Exported) -> None:
    """The ONNX checker rejects an invalid large model."""
    model = onnx.load(exported.folder / "model.onnx")
    model.graph.node[-1].op_type = "Nonsense"
    with pytest.raises(onnx.checker.ValidationError, match="Nonsense"):
        external_data.check(model)


def test_shapes_are_inferred_without_weights(exported: Exported) -> None:
    """Both shape inferences return the same for a copy without weights as for the model itself."""
    model = onnx.load(exported.folder / "model.onnx")
    del model.graph.value_info[:]
    bare = external_data.weightless(model)
    assert bare.ByteSize() < model.ByteSize() - LIMIT_BYTES
    strict, expected = (
        list(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph.value_info)
        for proto in (bare, model)
    )
    assert expected == strict != []
    symbolic, expected_symbolic = (symbolic_shapes.infer(proto) for proto in (bare, model))
    assert (symbolic.failure, expected_symbolic.failure) == ("", "")
    assert symbolic.infos == expected_symbolic.infos != []


@pytest.mark.usefixtures("small_limit")
def test_variants_are_rejected(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """Variants of a large network are rejected before any computation."""
    with pytest.raises(SettingsError, match="omit --variants"):
        plan(convnet4, tmp_path, "tiny", VariantSettings(("fp16",)))
