"""Weights that do not fit into one file with the graph stand beside it, and all else is as ever."""

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
from export.onnx_model.runtime import Runtime, every_value
from export.variants.runner import plan
from export.variants.settings import VariantSettings
from export.verify import symbolic_shapes
from serve.client.sync import Client
from tests.conftest import ROOT
from tests.export.artifact.test_reproducible import contents
from tests.export.test_pipeline import VERSION_FILES, files_below, read_manifest
from zoo import LoadedNetwork

FEW_BYTES = 10_000  # convnet4 holds more


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model count as large at FEW_BYTES."""
    monkeypatch.setattr(external_data, "EXTERNAL_FROM_BYTES", FEW_BYTES)


@pytest.fixture(scope="module")
def outside(convnet4: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The export of `exported` with its weights outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_data, "EXTERNAL_FROM_BYTES", FEW_BYTES)
        to = tmp_path_factory.mktemp("large") / "models"
        return export_model(convnet4, ExportSettings(to=to, name="tiny"))


def answers_of_a_server(models: Path, images: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
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


def test_weights_stand_beside(outside: Exported, exported: Exported) -> None:
    """The weights are in model.onnx.data, named relatively and each at a whole page; the manifest lists the file."""
    assert files_below(outside.folder) == sorted([*VERSION_FILES, "model.onnx.data"])
    assert "model.onnx.data" in {file.path for file in read_manifest(outside.folder).files}
    graph = onnx.load(outside.folder / "model.onnx", load_external_data=False).graph
    places = [{each.key: each.value for each in weight.external_data} for weight in graph.initializer]
    assert any(places)
    assert {each["location"] for each in places if each} == {"model.onnx.data"}
    assert all(int(each["offset"]) % 4096 == 0 for each in places if each)
    sizes = [(outside.folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data")]
    assert outside.model_bytes == sum(sizes)
    assert sizes[0] < exported.model_bytes - FEW_BYTES


def test_nothing_else_differs(outside: Exported, exported: Exported) -> None:
    """Read whole, the model is the small one, bit by bit; its manifest differs in the files alone."""
    whole, small = (onnx.load(each.folder / "model.onnx") for each in (outside, exported))
    weights = [{each.name: numpy_helper.to_array(each) for each in model.graph.initializer} for model in (whole, small)]
    assert list(weights[0]) == list(weights[1])
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    for model in (whole, small):
        del model.graph.initializer[:]
    assert whole == small
    promises = [read_manifest(each.folder) for each in (outside, exported)]
    for promise in promises:
        del promise.files[:]
        promise.sha256 = ""
    assert promises[0] == promises[1]


def test_check_finds_a_flipped_bit(outside: Exported, tmp_path: Path) -> None:
    """zoonnx check holds; a changed bit of the weights is found."""
    (report,) = check_model(outside.folder.parent)
    assert not [fault for finding in report.findings for fault in finding.faults]
    path = outside.folder / "model.onnx.data"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    try:
        (report,) = check_model(outside.folder.parent)
    finally:
        path.write_bytes(content)
    assert {fault.file for finding in report.findings for fault in finding.faults} == {str(path)}


def test_the_server_answers_as_for_one_file(outside: Exported, exported: Exported) -> None:
    """A real server of the large form gives outputs and a layer as a session of the small form computes them."""
    images = np.random.default_rng(7).integers(0, 256, (4, 8, 8, 1), np.uint8)
    layer = next(each for each in exported.manifest.layer_map.layers if each.value)
    outputs = ["logits", "probabilities", layer.name]
    answers = answers_of_a_server(outside.folder.parent.parent, images, outputs)
    small = onnx.load(exported.folder / "model.onnx")
    expected = Runtime(small, [layer.value]).run({"image": images}, ["logits", "probabilities", layer.value])
    for got, wanted in zip((answers[name] for name in outputs), expected.values(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("few")
def test_the_same_bytes_twice(outside: Exported, convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """Two exports of a large network are equal, file by file."""
    again = export_model(convnet4, ExportSettings(to=tmp_path / "models", name="tiny"))
    assert contents(again.folder.parent) == contents(outside.folder.parent)


@pytest.mark.usefixtures("few")
def test_no_message_holds_the_weights(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a session, nor the checker, nor what is inferred from or written serialises a large model whole."""
    model = onnx.load(exported.folder / "model.onnx")
    sizes = []
    serialise = onnx.ModelProto.SerializeToString

    def measured(message: onnx.ModelProto, **options: bool) -> bytes:
        content = serialise(message, **options)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", measured)
    Runtime(model, every_value(model), optimise=False)
    external_data.check(model)
    files = external_data.contents(model)
    assert len(sizes) == 3
    assert max(sizes) < exported.model_bytes - FEW_BYTES
    assert len(files["model.onnx.data"]) > FEW_BYTES


@pytest.mark.usefixtures("few")
def test_the_checker_still_refuses(exported: Exported) -> None:
    """A large model that is wrong is refused as a small one is."""
    model = onnx.load(exported.folder / "model.onnx")
    model.graph.node[-1].op_type = "Nonsense"
    with pytest.raises(onnx.checker.ValidationError, match="Nonsense"):
        external_data.check(model)


def test_shapes_are_inferred_without_weights(exported: Exported) -> None:
    """Both inferences hear of a copy without weights what they hear of the model itself."""
    model = onnx.load(exported.folder / "model.onnx")
    del model.graph.value_info[:]
    bare = external_data.weightless(model)
    assert bare.ByteSize() < model.ByteSize() - FEW_BYTES
    strict, expected = (
        list(onnx.shape_inference.infer_shapes(each, strict_mode=True, data_prop=True).graph.value_info)
        for each in (bare, model)
    )
    assert expected == strict != []
    found, whole = (symbolic_shapes.infer(each) for each in (bare, model))
    assert (found.gave_up, whole.gave_up) == ("", "")
    assert found.infos == whole.infos != []


@pytest.mark.usefixtures("few")
def test_variants_are_refused(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """Variants of a large network are refused before anything is done."""
    with pytest.raises(SettingsError, match="leave --variants out"):
        plan(convnet4, tmp_path, "tiny", VariantSettings(("fp16",)))
