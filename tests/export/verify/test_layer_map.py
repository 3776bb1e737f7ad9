"""The layer map has an entry for every module of the network."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from export.convert.convert import convert
from export.convert.prepare import prepare
from export.convert.taps import before_norms
from export.reference.determinism import reference_runs
from export.verify.layer_map import map_layers
from protos import manifest
from tests.export.networks import SMALL, Base, status
from zoo import LoadedNetwork


class TestConvnet4:
    """The layer map of an exported network."""

    def layers(self, exported: Exported) -> dict[str, manifest.Layer]:
        return {layer.name: layer for layer in exported.manifest.layer_map.layers}

    def test_every_module_has_an_entry(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """Every called module is in the layer map."""
        assert set(self.layers(exported)) == {path for path, _ in convnet4.network.named_modules() if path}

    def test_folding(self, exported: Exported) -> None:
        """Each convolution is folded into the BatchNorm after it; all other layers are in the file."""
        inexact = {
            name: status(layer) for name, layer in self.layers(exported).items() if layer.status != manifest.EXACT
        }
        assert {name: entry for name, entry in inexact.items() if entry[0] == "FOLDED"} == {
            f"conv{i}": ("FOLDED", f"bn{i}") for i in range(1, 5)
        }
        assert all(entry[0] == "ALIAS" for name, entry in inexact.items() if not name.startswith("conv"))

    def test_shapes_have_a_dynamic_batch(self, exported: Exported) -> None:
        """Shapes are those of PyTorch, with -1 for the batch."""
        layers = self.layers(exported)
        assert list(layers["act2"].shape) == [-1, 32, 8, 8]
        assert list(layers["pool"].shape) == [-1, 32, 4, 4]

    def test_receptive_fields(self, exported: Exported) -> None:
        """Each layer has its receptive field, in the manifest and in the file."""
        fields = {
            name: [(field.size, field.jump, field.start) for field in layer.fields]
            for name, layer in self.layers(exported).items()
        }
        assert (fields["conv1"], fields["act2"]) == ([(3, 1, -1)] * 2, [(5, 1, -2)] * 2)
        assert fields["pool"] == [(6, 2, -2)] * 2
        model = onnx.load(exported.folder / "model.onnx")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        layers = {layer["name"]: layer for layer in json.loads(metadata["zoonnx.layers"])["layers"]}
        assert layers["pool"]["fields"][0] == {"size": 6.0, "jump": 2.0, "start": -2.0, "exact": True}

    def test_values_equal_hooks(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """The value of each layer equals the output in a PyTorch hook, for images that the export did not use."""
        images = np.random.default_rng(9).integers(0, 256, (2, 8, 8, 1), np.uint8)
        expected = dict(hooked(convnet4.network, convnet4.preprocessing.normalise(torch.from_numpy(images))))
        layers = [layer for layer in exported.manifest.layer_map.layers if layer.value]
        assert len(layers) > 12
        values = fetch(exported, [layer.value for layer in layers], images)
        for layer in layers:
            np.testing.assert_allclose(values[layer.value], expected[layer.path], rtol=1e-4, atol=1e-5)

    def test_the_file_holds_the_map(self, exported: Exported) -> None:
        """The ONNX file contains the layer map, without the errors, which depend on the machine."""
        model = onnx.load(exported.folder / "model.onnx")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        layers = json.loads(metadata["zoonnx.layers"])["layers"]
        assert [layer.get("name", "") for layer in layers] == list(self.layers(exported))
        assert not any("max_abs_error" in layer for layer in layers)


class TestTaps:
    """Exports that keep the inputs of BatchNorm layers."""

    def test_every_convolution(self, convnet4: LoadedNetwork, exported: Exported, tmp_path: Path) -> None:
        """With taps, each convolution's own output is in the file; the model's outputs are the same."""
        tapped = export_model(convnet4, ExportSettings(to=tmp_path, name="tapped", taps=True))
        layers = {layer.name: layer for layer in tapped.manifest.layer_map.layers}
        assert {status(layers[f"conv{i}"]) for i in range(1, 5)} == {("EXACT", "")}
        assert [tensor.name for tensor in tapped.manifest.outputs] == ["logits", "probabilities"]
        images = np.random.default_rng(9).integers(0, 256, (2, 8, 8, 1), np.uint8)
        expected = dict(hooked(convnet4.network, convnet4.preprocessing.normalise(torch.from_numpy(images))))
        values = fetch(tapped, ["conv1", "conv4"], images)
        for name in ("conv1", "conv4"):
            np.testing.assert_allclose(values[name], expected[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(values["logits"], fetch(exported, [], images)["logits"], rtol=1e-4, atol=1e-5)

    def test_called_twice(self) -> None:
        """Both outputs of a tapped module that is called twice are kept; other modules are not tapped."""

        class Shared(Base):
            def __init__(self) -> None:
                super().__init__()
                self.again = nn.Conv2d(4, 4, 3, padding=1)
                self.norm = nn.BatchNorm2d(4)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.norm(self.again(self.norm(self.again(x)).tanh()))

        network = prepare(Shared().eval())
        runs = reference_runs(network, SMALL)
        assert list(before_norms(network, list(runs[0].float32.layers.values()))) == ["again"]
        model = SMALL.attach(convert(network, SMALL, 20, taps=["again"]))
        layers = {layer.name: layer for layer in map_layers(model, network, runs).layers}
        assert status(layers["again"]) == status(layers["again@1"]) == ("EXACT", "")


def hooked(network: nn.Module, x: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a copy of each module's output, from PyTorch's own hooks."""
    outputs: dict[str, np.ndarray] = {}

    def record(path: str) -> object:
        return lambda _module, _args, output: outputs.__setitem__(path, output.clone().numpy())

    handles = [module.register_forward_hook(record(path)) for path, module in network.named_modules()]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    yield from outputs.items()


def fetch(exported: Exported, values: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the file with `values` as additional outputs."""
    model = onnx.load(exported.folder / "model.onnx")
    existing = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(values) if name not in existing)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))
