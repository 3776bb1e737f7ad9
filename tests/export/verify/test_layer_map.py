"""Every module of the network is found in the file, or its absence explained."""

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
from export.reference.determinism import expectations
from export.verify.layer_map import map_layers
from protos import manifest
from tests.export.networks import SMALL, Base, status
from zoo import LoadedNetwork


class TestConvnet4:
    """The catalog's network, as exported."""

    def layers(self, exported: Exported) -> dict[str, manifest.Layer]:
        return {layer.name: layer for layer in exported.manifest.layer_map.layers}

    def test_every_module_has_an_entry(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """No called module is missing."""
        assert set(self.layers(exported)) == {path for path, _ in convnet4.network.named_modules() if path}

    def test_folding_is_told(self, exported: Exported) -> None:
        """Each convolution went into the BatchNorm after it; everything else is there."""
        found = {name: status(layer) for name, layer in self.layers(exported).items() if layer.status != manifest.EXACT}
        assert {name: where for name, where in found.items() if where[0] == "FOLDED"} == {
            f"conv{i}": ("FOLDED", f"bn{i}") for i in range(1, 5)
        }
        assert all(where[0] == "ALIAS" for name, where in found.items() if not name.startswith("conv"))

    def test_shapes_have_a_free_batch(self, exported: Exported) -> None:
        """Shapes are those of PyTorch, with -1 where the batch decides."""
        layers = self.layers(exported)
        assert list(layers["act2"].shape) == [-1, 32, 8, 8]
        assert list(layers["pool"].shape) == [-1, 32, 4, 4]

    def test_receptive_fields(self, exported: Exported) -> None:
        """Each layer says what a unit sees, in the manifest and in the file: 3 pixels more with each convolution."""
        fields = {
            name: [(f.size, f.jump, f.start) for f in each.fields] for name, each in self.layers(exported).items()
        }
        assert (fields["conv1"], fields["act2"]) == ([(3, 1, -1)] * 2, [(5, 1, -2)] * 2)
        assert fields["pool"] == [(6, 2, -2)] * 2
        model = onnx.load(exported.folder / "model.onnx")
        held = {entry.key: entry.value for entry in model.metadata_props}
        layers = {each["name"]: each for each in json.loads(held["zoonnx.layers"])["layers"]}
        assert layers["pool"]["fields"][0] == {"size": 6.0, "jump": 2.0, "start": -2.0, "exact": True}

    def test_values_equal_hooks(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """The value that the map names holds what PyTorch's hook sees, on images that the export never saw."""
        images = np.random.default_rng(9).integers(0, 256, (2, 8, 8, 1), np.uint8)
        expected = dict(hooked(convnet4.network, convnet4.preprocessing.normalise(torch.from_numpy(images))))
        layers = [each for each in exported.manifest.layer_map.layers if each.value]
        assert len(layers) > 12
        found = fetch(exported, [each.value for each in layers], images)
        for layer in layers:
            np.testing.assert_allclose(found[layer.value], expected[layer.path], rtol=1e-4, atol=1e-5)

    def test_the_file_holds_the_map(self, exported: Exported) -> None:
        """Whoever has only the ONNX file has the map, too; errors measured on one machine are left out."""
        model = onnx.load(exported.folder / "model.onnx")
        held = {entry.key: entry.value for entry in model.metadata_props}
        layers = json.loads(held["zoonnx.layers"])["layers"]
        assert [layer.get("name", "") for layer in layers] == list(self.layers(exported))
        assert not any("max_abs_error" in layer for layer in layers)


class TestTaps:
    """What is folded by default, kept on request."""

    def test_every_convolution(self, convnet4: LoadedNetwork, exported: Exported, tmp_path: Path) -> None:
        """With taps each convolution's own output is in the file, checked; the outputs stay what they were."""
        tapped = export_model(convnet4, ExportSettings(to=tmp_path, name="tapped", taps=True))
        layers = {layer.name: layer for layer in tapped.manifest.layer_map.layers}
        assert {status(layers[f"conv{i}"]) for i in range(1, 5)} == {("EXACT", "")}
        assert [each.name for each in tapped.manifest.outputs] == ["logits", "probabilities"]
        images = np.random.default_rng(9).integers(0, 256, (2, 8, 8, 1), np.uint8)
        expected = dict(hooked(convnet4.network, convnet4.preprocessing.normalise(torch.from_numpy(images))))
        found = fetch(tapped, ["conv1", "conv4"], images)
        for name in ("conv1", "conv4"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["logits"], fetch(exported, [], images)["logits"], rtol=1e-4, atol=1e-5)

    def test_called_twice(self) -> None:
        """A tapped module that is called twice is kept twice; what feeds no BatchNorm is not tapped."""

        class Shared(Base):
            def __init__(self) -> None:
                super().__init__()
                self.again = nn.Conv2d(4, 4, 3, padding=1)
                self.norm = nn.BatchNorm2d(4)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.norm(self.again(self.norm(self.again(x)).tanh()))

        network = prepare(Shared().eval())
        expected = expectations(network, SMALL)
        assert list(before_norms(network, list(expected[0].given.layers.values()))) == ["again"]
        model = SMALL.attach(convert(network, SMALL.input_size, 20, taps=["again"]))
        layers = {layer.name: layer for layer in map_layers(model, network, expected).layers}
        assert status(layers["again"]) == status(layers["again@1"]) == ("EXACT", "")


def hooked(network: nn.Module, x: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """What each module gives, by PyTorch's own hooks, copied."""
    seen: dict[str, np.ndarray] = {}

    def keep(path: str) -> object:
        return lambda _module, _args, output: seen.__setitem__(path, output.clone().numpy())

    handles = [module.register_forward_hook(keep(path)) for path, module in network.named_modules()]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    yield from seen.items()


def fetch(exported: Exported, values: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the file with `values` as outputs."""
    model = onnx.load(exported.folder / "model.onnx")
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(values) if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))
