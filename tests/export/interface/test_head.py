"""Heads compute the same probabilities in PyTorch and in the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.artifact.metadata import write_variant_metadata
from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import SettingsError, UnsupportedNetworkError
from export.interface.head import Head
from export.interface.interface import ImageInterface
from export.onnx_model.runtime import Runtime
from export.reference.determinism import reference_runs
from export.settings import Activation
from export.source.module import plain_preprocessing
from export.verify.model_runner import ModelRunner
from export.verify.parity import check_parity
from protos import manifest
from zoo import LoadedNetwork
from zoo.runs.load import WeightsSource


@pytest.fixture(scope="module")
def converted(convnet4: LoadedNetwork) -> tuple[torch.nn.Module, onnx.ModelProto]:
    """Return the prepared network and the converted model, without an interface."""
    network = prepare(convnet4.network)
    return network, convert(network, ImageInterface(convnet4.preprocessing), 20)


@pytest.mark.parametrize(("activation", "temperature"), [("softmax", 1.0), ("softmax", 2.5), ("sigmoid", 0.5)])
def test_every_head(
    converted: tuple[torch.nn.Module, onnx.ModelProto],
    convnet4: LoadedNetwork,
    activation: Activation,
    temperature: float,
) -> None:
    """The file's probabilities are activation(logits / temperature), and agree with PyTorch."""
    network, model = converted
    interface = ImageInterface(convnet4.preprocessing, Head(activation, temperature))
    attached = interface.attach(model)
    check_parity(ModelRunner(attached), manifest.LayerMap(), reference_runs(network, interface))
    outputs = Runtime(attached).run(interface.noise(4))
    scaled = torch.from_numpy(outputs["logits"]) / temperature
    expected = scaled.softmax(-1) if activation == "softmax" else scaled.sigmoid()
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize("head", [{"activation": "relu"}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_invalid_head(head: dict[str, float]) -> None:
    """An unknown activation and a temperature that is not positive are rejected."""
    with pytest.raises(SettingsError):
        Head(**head)  # type: ignore[arg-type]


@pytest.mark.parametrize(("calibrated", "temperature"), [(False, 1.0), (True, 0.4)])
def test_an_export_is_calibrated_on_request(
    convnet4: LoadedNetwork, tmp_path: Path, calibrated: bool, temperature: float
) -> None:
    """A calibrated export scales the probabilities by the temperature in the manifest, but not the logits."""
    run = replace(convnet4, weights=WeightsSource("trained", 0, metrics={"temperature": 0.4}))
    exported = export_model(run, ExportSettings(to=tmp_path, name="network", calibrated=calibrated))
    images = ImageInterface(convnet4.preprocessing).noise(3)["image"]
    outputs = Runtime(onnx.load(exported.folder / "model.onnx")).run({"image": images})
    with torch.inference_mode():
        logits = convnet4.network(convnet4.preprocessing.normalise(torch.from_numpy(images)))
    assert exported.manifest.head.temperature == temperature
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"], (logits / temperature).softmax(-1), atol=1e-5)


def test_calibration_without_a_temperature(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """Calibration without a temperature, and of a raw model, is rejected."""
    with pytest.raises(SettingsError, match=r"convnet4 has no temperature: completed runs have one"):
        export_model(convnet4, ExportSettings(to=tmp_path / "models", name="network", calibrated=True))
    assert not (tmp_path / "models").exists()
    with pytest.raises(SettingsError, match="a raw model has no probabilities"):
        ExportSettings(to=tmp_path, name="network", raw=True, calibrated=True)


def test_variant_metadata() -> None:
    """A variant's layer map follows renamed values, drops missing ones, and keeps the original's other metadata."""
    layers = [manifest.Layer(name=name, path=name, value=name, status=manifest.EXACT) for name in "abc"]
    original, variant = onnx.ModelProto(), onnx.ModelProto()
    onnx.helper.set_model_props(original, {"zoonnx.labels": "[]", "zoonnx.layers": "{}"})
    for name in ("a", "b_new"):
        variant.graph.node.append(onnx.helper.make_node("Relu", ["x"], [name]))
    layer_map = write_variant_metadata(variant, original, manifest.LayerMap(layers=layers), {"b": "b_new"})
    assert [(layer.name, layer.value) for layer in layer_map.layers] == [("a", "a"), ("b", "b_new"), ("c", "")]
    assert layer_map.layers[2].status == manifest.NOT_EXPORTED
    metadata = {entry.key: entry.value for entry in variant.metadata_props}
    assert metadata["zoonnx.labels"] == "[]"
    assert '"value":"b_new"' in metadata["zoonnx.layers"]


class TestSingleLogit:
    """A network with one output."""

    NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(48, 1)).eval()

    def test_its_meaning_is_asked_for(self, tmp_path: Path) -> None:
        """A softmax of one logit is never exported; the error names the choices."""
        with pytest.raises(UnsupportedNetworkError, match=r"--activation sigmoid .* --raw"):
            export_model(
                self.NETWORK, ExportSettings(to=tmp_path, name="one"), preprocessing=plain_preprocessing((3, 4, 4))
            )
        assert list(tmp_path.iterdir()) == []

    def test_sigmoid(self, tmp_path: Path) -> None:
        """With a sigmoid the probability is that of the label."""
        settings = ExportSettings(to=tmp_path, name="one", activation="sigmoid")
        exported = export_model(self.NETWORK, settings, preprocessing=plain_preprocessing((3, 4, 4)))
        assert exported.manifest.head.activation == "sigmoid"
        assert list(exported.manifest.outputs[1].shape) == [-1, 1]


@pytest.mark.parametrize("head", [Head(), Head("sigmoid"), Head("softmax", 0.2), Head("sigmoid", 3.0)])
def test_sensitivity(head: Head) -> None:
    """No difference of logits changes a probability by more than the sensitivity, and some almost do."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 2, dtype=torch.float64, generator=generator) * head.temperature
    difference = torch.rand(2000, 2, dtype=torch.float64, generator=generator).sub(0.5).sign() * 1e-3
    change = (head.apply(logits + difference) - head.apply(logits)).abs().max() / 1e-3
    assert 0.99 * head.sensitivity < float(change) <= head.sensitivity


def test_probabilities_of_large_logits(tmp_path: Path) -> None:
    """Probabilities may differ by what the tolerance of large logits causes: float32 cannot be more exact."""
    torch.manual_seed(11)
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.Tanh(), nn.Linear(64, 10)).eval()
    for layer, scale in ((network[1], 10), (network[3], 100)):
        layer.weight.data *= scale  # type: ignore[operator]
    exported = export_model(
        network,
        ExportSettings(to=tmp_path, name="n"),
        preprocessing=plain_preprocessing((3, 16, 16), (0.5,) * 3, (0.25,) * 3),
    )
    checks = exported.manifest.parity.checks
    tolerances = {
        name: [check.tolerance for check in checks if check.output == name] for name in ("logits", "probabilities")
    }
    for of_logits, of_probabilities in zip(tolerances["logits"], tolerances["probabilities"], strict=True):
        assert of_probabilities >= 0.49 * min(of_logits, 2e-2)
