"""Every module of the net is found in the file, or its absence explained."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from export.convert import convert
from export.errors import UnfitNetError
from export.interface import Interface, Pictures, Raw
from export.layers import map_layers
from export.prepare import prepare
from export.steady import expectations
from export.taps import before_norms
from protos import manifest
from zoo import LoadedNet
from zoo.preprocessing import Preprocessing

SMALL = Pictures(Preprocessing(input_size=(3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))


def mapped(net: nn.Module, interface: Interface = SMALL) -> dict[str, manifest.Layer]:
    """Return the layer map of `net`, by name, at 3x8x8."""
    prepared = prepare(net.eval())
    model = interface.attach(convert(prepared, interface.input_size, 20, interface.net_outputs))
    return {layer.name: layer for layer in map_layers(model, prepared, expectations(prepared, interface)).layers}


def status(layer: manifest.Layer) -> tuple[str, str]:
    return manifest.LayerStatus.Name(layer.status), layer.of


class Base(nn.Module):
    """A net of two convolutions with a linear end; the tests' nets differ in between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.middle(self.conv(x)).flatten(1))

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError  # abstract: each net of these tests says what stands here


class TestConvnet4:
    """The catalog's net, as exported."""

    def layers(self, exported: Exported) -> dict[str, manifest.Layer]:
        return {layer.name: layer for layer in exported.manifest.layer_map.layers}

    def test_every_module_has_an_entry(self, exported: Exported, convnet4: LoadedNet) -> None:
        """No called module is missing."""
        assert set(self.layers(exported)) == {path for path, _ in convnet4.net.named_modules() if path}

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

    def test_values_equal_hooks(self, exported: Exported, convnet4: LoadedNet) -> None:
        """The value that the map names holds what PyTorch's hook sees, on pictures that the export never saw."""
        images = np.random.default_rng(9).integers(0, 256, (2, 8, 8, 1), np.uint8)
        expected = dict(hooked(convnet4.net, convnet4.preprocessing.normalise(torch.from_numpy(images))))
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

    def test_every_convolution(self, convnet4: LoadedNet, exported: Exported, tmp_path: Path) -> None:
        """With taps each convolution's own output is in the file, checked; the outputs stay what they were."""
        tapped = export_model(convnet4, ExportSettings(to=tmp_path, name="tapped", taps=True))
        layers = {layer.name: layer for layer in tapped.manifest.layer_map.layers}
        assert {status(layers[f"conv{i}"]) for i in range(1, 5)} == {("EXACT", "")}
        assert [each.name for each in tapped.manifest.outputs] == ["logits", "probabilities"]
        images = np.random.default_rng(9).integers(0, 256, (2, 8, 8, 1), np.uint8)
        expected = dict(hooked(convnet4.net, convnet4.preprocessing.normalise(torch.from_numpy(images))))
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

        net = prepare(Shared().eval())
        expected = expectations(net, SMALL)
        assert list(before_norms(net, list(expected[0].given.layers.values()))) == ["again"]
        model = SMALL.attach(convert(net, SMALL.input_size, 20, taps=["again"]))
        layers = {layer.name: layer for layer in map_layers(model, net, expected).layers}
        assert status(layers["again"]) == status(layers["again@1"]) == ("EXACT", "")


class TestOddNets:
    """Nets whose modules do not each give one value of their own."""

    def test_called_twice(self) -> None:
        """A module called twice has two entries, and they hold different values."""

        class Twice(Base):
            def __init__(self) -> None:
                super().__init__()
                self.again = nn.Conv2d(4, 4, 3, padding=1)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.again(self.again(x).sigmoid())

        layers = mapped(Twice())
        assert status(layers["again"]) == status(layers["again@1"]) == ("EXACT", "")
        assert layers["again"].value != layers["again@1"].value

    def test_called_twice_on_the_same(self) -> None:
        """The exporter computes once what a block gives twice for one input; both calls have that value."""

        class Again(Base):
            def __init__(self) -> None:
                super().__init__()
                self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid())

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.block(x) + self.block(x).tanh() + self.block(x.tanh())

        layers = mapped(Again())
        for name in ("block", "block.0"):
            calls = [layers[call] for call in (name, f"{name}@1", f"{name}@2")]
            assert [status(each) for each in calls] == [("EXACT", "")] * 3
            assert calls[0].value == calls[1].value != calls[2].value

    def test_at_two_places(self) -> None:
        """A module that stands in the net at two paths is found under the first, however the net calls it."""

        class Block(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x).tanh()

        class Lent(Base):
            def __init__(self) -> None:
                super().__init__()
                self.lent = nn.Conv2d(4, 4, 3, padding=1)
                self.blocks = nn.Sequential(Block(self.lent), Block(self.lent))

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.blocks(x)

        layers = mapped(Lent())
        assert status(layers["lent"]) == status(layers["lent@1"]) == ("EXACT", "")
        assert layers["lent"].value != layers["lent@1"].value
        assert "blocks.0.inner" not in layers

    def test_tuple_output(self) -> None:
        """Each tensor of a tuple has an entry."""

        class Split(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x.tanh(), x.sigmoid()

        class Pair(Base):
            def __init__(self) -> None:
                super().__init__()
                self.split = Split()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                a, b = self.split(x)
                return a * b

        layers = mapped(Pair())
        assert (layers["split"].value, layers["split:1"].value) == ("tanh", "sigmoid")

    def test_dropout_first_in_the_head(self) -> None:
        """What a head's dropout hands on was computed outside of the head, as in torchvision's nets."""

        class Headed(Base):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Sequential(nn.Sequential(nn.Dropout(), nn.Linear(4 * 64, 5)))

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x.tanh()

        layers = mapped(Headed())
        assert status(layers["fc.0.0"]) == ("EXACT", "")

    def test_identity_after_an_operation(self) -> None:
        """A module that hands on what no module made is found by its value."""

        class Handed(Base):
            def __init__(self) -> None:
                super().__init__()
                self.drop = nn.Dropout()
                self.same = nn.Identity()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.same(self.drop(x + x.tanh()))

        layers = mapped(Handed())
        assert status(layers["drop"])[0] == status(layers["same"])[0] == "EXACT"
        assert layers["drop"].value == layers["same"].value

    def test_in_place(self) -> None:
        """An in-place ReLU does not pass for its input."""

        class InPlace(Base):
            def __init__(self) -> None:
                super().__init__()
                self.relu = nn.ReLU(inplace=True)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.relu(x)

        layers = mapped(InPlace())
        assert status(layers["conv"]) == status(layers["relu"]) == ("EXACT", "")
        assert layers["conv"].value != layers["relu"].value

    def test_constant(self) -> None:
        """A module whose output never depends on the input says why it is not there."""

        class Grid(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Parameter(torch.ones(4, 8, 8))

            def forward(self) -> torch.Tensor:
                return self.table * 2

        class Constant(Base):
            def __init__(self) -> None:
                super().__init__()
                self.grid = Grid()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x + self.grid()

        layer = mapped(Constant())["grid"]
        assert (status(layer)[0], layer.value) == ("NOT_EXPORTED", "")
        assert "does not depend on the input" in layer.reason

    def test_dead_on_noise(self) -> None:
        """Calls of a ReLU that gives zeros for noise are not taken for each other: flat pictures tell them apart."""

        class Shared(Base):
            def __init__(self) -> None:
                super().__init__()
                self.act = nn.ReLU()
                self.conv = nn.Conv2d(3, 4, 8, padding=4, bias=True)
                self.fc = nn.Linear(4 * 81, 5)
                self.conv.weight.data.fill_(0.02)
                self.conv.bias.data.fill_(-2.0)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.act(0.5 - self.act(x) * 3) + self.act(x - 1)

        layers = mapped(Shared())
        assert [layers[name].value for name in ("act", "act@1", "act@2")] == ["relu", "relu_1", "relu_2"]

    def test_a_clamp_that_noise_does_not_reach(self) -> None:
        """A module before a clamp is not taken for the clamp."""

        class Clamped(Base):
            def __init__(self) -> None:
                super().__init__()
                self.drop = nn.Dropout()
                self.conv.weight.data.fill_(0.05)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.drop(x * 1.5).clamp(-2.5, 2.5)

        layer = mapped(Clamped())["drop"]
        assert (status(layer)[0], layer.value) == ("EXACT", "mul")

    @pytest.mark.parametrize("share", [1e-5, 1e-9])
    def test_a_branch_that_adds_next_to_nothing(self, share: float) -> None:
        """What a block hands on is not taken for what the block makes of it, however little that is."""

        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.keep = nn.Identity()
                self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.keep(x + share * self.one(x))
                return x + share * self.two(x)

        class Net(Base):
            def __init__(self) -> None:
                super().__init__()
                self.block = Residual()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.block(x)

        layers = mapped(Net())
        assert (layers["block.keep"].value, layers["block"].value) == ("add", "add_1")

    def test_a_clamp_that_no_telling_input_reaches(self) -> None:
        """Where two values are equal for all telling inputs, others tell which of them is the module's."""

        class Both(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                y = x * 1.5 + 50
                return y, y.clamp(min=0)

        class Clamped(Base):
            def __init__(self) -> None:
                super().__init__()
                self.both = Both()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                a, b = self.both(x)
                return a + b

        layers = mapped(Clamped(), Raw((3, 8, 8), ("output",)))
        assert [layers[name].value for name in ("both", "both:1")] == ["add", "clamp"]

    def test_a_relu_that_only_colours_reach(self) -> None:
        """The same for pictures, which have an end: what noise and grey pictures do not reach."""

        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 8)
                self.conv.weight.data[:] = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1) / 64
                self.conv.bias.data.fill_(1.5)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                y = self.conv(x)
                return y + 0.1, (y + 0.1).relu()

        class Coloured(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mean = Mean()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                a, b = self.mean(x)
                return (a + b).flatten(1)

        layers = mapped(Coloured())
        assert [layers[name].value for name in ("mean", "mean:1")] == ["add", "relu"]

    def test_two_layers_of_one_name(self) -> None:
        """A module whose own name looks like another's second call is refused by name."""

        class Clash(Base):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Sigmoid()
                self.add_module("a@1", nn.Tanh())

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.a(self.a(self.get_submodule("a@1")(x)))

        with pytest.raises(UnfitNetError, match="2 layers would be called 'a@1'"):
            mapped(Clash())

    def test_wrong_values_are_not_believed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the runtime computes something else, no entry claims to be exact."""

        class Plain(Base):
            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x.tanh()

        from export import layers as module

        honest = module.Runtime.run
        monkeypatch.setattr(module.Runtime, "run", lambda *a: {k: v * 1.001 for k, v in honest(*a).items()})
        assert {status(layer)[0] for layer in mapped(Plain()).values()} & {"EXACT", "ALIAS"} == set()

    def test_what_is_computed_less_exactly_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A value that is nearly a layer's is not said to be rewritten, and not taken for it either."""

        class Plain(Base):
            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x.tanh()

        from export import layers as module

        honest = module.Runtime.run
        monkeypatch.setattr(module.Runtime, "run", lambda *a: {k: v * 1.0001 for k, v in honest(*a).items()})
        layer = mapped(Plain())["conv"]
        assert status(layer)[0] == "NOT_EXPORTED"
        assert "computes it less exactly than PyTorch does: 'conv2d' is " in layer.reason


def hooked(net: nn.Module, x: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """What each module gives, by PyTorch's own hooks, copied."""
    seen: dict[str, np.ndarray] = {}

    def keep(path: str) -> object:
        return lambda _module, _args, output: seen.__setitem__(path, output.clone().numpy())

    handles = [module.register_forward_hook(keep(path)) for path, module in net.named_modules()]
    with torch.no_grad():
        net(x)
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
