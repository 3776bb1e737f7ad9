"""The layer map of networks whose modules are called, nested or shared in unusual ways."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from export import ExportSettings, export_model
from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.interface.interface import one_input
from export.onnx_model.stages import StagedRuntime
from export.source.module import plain_preprocessing
from protos import manifest
from tests.export.networks import Base, mapped, status


class TestOddNetworks:
    """Networks with modules that have no value, or several."""

    def test_called_twice(self) -> None:
        """A module that is called twice has two entries with different values."""

        class Twice(Base):
            def __init__(self) -> None:
                super().__init__()
                self.again = nn.Conv2d(4, 4, 3, padding=1)

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.again(self.again(x).sigmoid())

        layers = mapped(Twice())
        assert status(layers["again"]) == status(layers["again@1"]) == ("EXACT", "")
        assert layers["again"].value != layers["again@1"].value

    def test_called_twice_on_the_same_input(self) -> None:
        """Two calls of a block with the same input, which the exporter computes once, have the same value."""

        class Again(Base):
            def __init__(self) -> None:
                super().__init__()
                self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid())

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.block(x) + self.block(x).tanh() + self.block(x.tanh())

        layers = mapped(Again())
        for name in ("block", "block.0"):
            calls = [layers[call] for call in (name, f"{name}@1", f"{name}@2")]
            assert [status(layer) for layer in calls] == [("EXACT", "")] * 3
            assert calls[0].value == calls[1].value != calls[2].value

    def test_at_two_places(self) -> None:
        """A module with two paths has entries under the first one only, whichever path is used in the forward."""

        class Block(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x).tanh()

        class Shared(Base):
            def __init__(self) -> None:
                super().__init__()
                self.shared = nn.Conv2d(4, 4, 3, padding=1)
                self.blocks = nn.Sequential(Block(self.shared), Block(self.shared))

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.blocks(x)

        layers = mapped(Shared())
        assert status(layers["shared"]) == status(layers["shared@1"]) == ("EXACT", "")
        assert layers["shared"].value != layers["shared@1"].value
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
        """A dropout that comes first in a head, as in torchvision, passes through a value from outside of the head."""

        class Headed(Base):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Sequential(nn.Sequential(nn.Dropout(), nn.Linear(4 * 64, 5)))

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x.tanh()

        layers = mapped(Headed())
        assert status(layers["fc.0.0"]) == ("EXACT", "")

    def test_identity_after_an_operation(self) -> None:
        """A module that passes through a value that no module computed has that value."""

        class PassThrough(Base):
            def __init__(self) -> None:
                super().__init__()
                self.drop = nn.Dropout()
                self.identity = nn.Identity()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.identity(self.drop(x + x.tanh()))

        layers = mapped(PassThrough())
        assert status(layers["drop"])[0] == status(layers["identity"])[0] == "EXACT"
        assert layers["drop"].value == layers["identity"].value

    def test_in_place(self) -> None:
        """An in-place ReLU and its input have different values."""

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
        """A module whose output does not depend on the input is not exported, with that reason."""

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
        """Calls of a ReLU that is 0 on noise are distinguished by the constant images."""

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
        """A module before a clamp is distinguished from the clamp."""

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
    def test_a_branch_that_adds_almost_nothing(self, share: float) -> None:
        """The input and output of a residual block are distinguished, however small their difference is."""

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

    def test_a_clamp_that_no_probe_input_reaches(self) -> None:
        """Values that are equal for all probe inputs are distinguished by inputs out of their range."""

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

        layers = mapped(Clamped(), one_input((3, 8, 8), ("output",)))
        assert [layers[name].value for name in ("both", "both:1")] == ["add", "clamp"]

    @pytest.mark.parametrize("kind", ["ones", "constant", "saturated"])
    def test_values_that_differ_at_one_end_of_the_range(self, kind: str) -> None:
        """Values that differ only on a constant or saturated input are distinguished by it."""
        interface = one_input((3, 8, 8), ("output",))
        end = torch.from_numpy(interface.extreme_inputs()[kind]["x"])

        class Both(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                is_end = ((x - end).abs().amax((1, 2, 3), keepdim=True) < 1e-6).to(x.dtype)
                shifted = x + is_end
                return shifted, shifted - is_end

        class Ends(Base):
            def __init__(self) -> None:
                super().__init__()
                self.both = Both()

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                a, b = self.both(x)
                return super().forward(a + b)

        layers = mapped(Ends(), interface)
        assert [layers[name].value for name in ("both", "both:1")] == ["add", "sub_1"]

    def test_a_relu_that_only_colours_reach(self) -> None:
        """Values of images that are equal for noise and grey images are distinguished by coloured ones."""

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
        """A network with a module whose name is that of another module's second call is rejected."""

        class Clash(Base):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Sigmoid()
                self.add_module("a@1", nn.Tanh())

            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return self.a(self.a(self.get_submodule("a@1")(x)))

        with pytest.raises(UnsupportedNetworkError, match="2 layers would have the name 'a@1'"):
            mapped(Clash())

    def test_wrong_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If onnxruntime computes wrong values, no entry is EXACT."""

        class Plain(Base):
            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x.tanh()

        scale_values(monkeypatch, 1.001)
        assert {status(layer)[0] for layer in mapped(Plain()).values()} & {"EXACT", "ALIAS"} == set()

    def test_imprecise_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A value that misses the tolerance slightly is reported as imprecise, not as rewritten or exact."""

        class Plain(Base):
            def middle(self, x: torch.Tensor) -> torch.Tensor:
                return x.tanh()

        scale_values(monkeypatch, 1.0001)
        layer = mapped(Plain())["conv"]
        assert status(layer)[0] == "NOT_EXPORTED"
        assert "computes it less exactly than PyTorch does: 'conv2d' is " in layer.reason


def scale_values(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Make onnxruntime return every value multiplied by `factor`."""
    run = StagedRuntime.run

    def scaled(runtime: StagedRuntime, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        for values in run(runtime, inputs):
            yield {name: value * factor for name, value in values.items()}

    monkeypatch.setattr(StagedRuntime, "run", scaled)


class GradientMode(nn.Module):
    """A backbone that runs inside `context`, under a head that does not."""

    def __init__(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head, self.context = nn.Linear(4, 5), context

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.context():
            features = self.backbone(x)
        return self.head(features.mean((2, 3)))


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.enable_grad, torch.inference_mode], ids=lambda context: context.__name__
)
def test_a_backbone_in_another_gradient_mode(context: Callable[[], AbstractContextManager[Any]]) -> None:
    """Its layers are found, although torch.export captures them as a function of its own."""
    layers = mapped(GradientMode(context))
    assert [layers[name].status for name in ("backbone.0", "backbone.1", "backbone")] == [manifest.EXACT] * 3


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_backbone(reentrant: bool) -> None:
    """Gradient checkpointing hides no layer."""

    class Checkpointed(GradientMode):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = checkpoint(self.backbone, x, use_reentrant=reentrant)
            return self.head(features.mean((2, 3)))

    layers = mapped(Checkpointed(torch.no_grad))
    assert [layers[name].status for name in ("backbone.0", "backbone.1", "backbone")] == [manifest.EXACT] * 3


class NamedLike(nn.Module):
    """A layer called as the model's output or input, times `factor`."""

    def __init__(self, name: str, factor: float) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(192, 5))
        self.name, self.factor = name, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.get_submodule(self.name)(x.flatten(1))
        return logits * self.factor if self.factor != 1 else logits


@pytest.mark.parametrize("name", ["logits", "image", "probabilities"])
def test_a_layer_named_like_another_tensor_is_rejected(name: str, tmp_path: Path) -> None:
    """A client that requests the name would get the other tensor."""
    with pytest.raises(UnsupportedNetworkError, match=f"layer '{name}' .* rename the module"):
        export_model(
            NamedLike(name, 10).eval(),
            ExportSettings(to=tmp_path, name="n"),
            preprocessing=plain_preprocessing((3, 8, 8)),
        )


def test_a_layer_named_like_the_output_that_it_is(tmp_path: Path) -> None:
    """The same tensor may have the same name."""
    network = NamedLike("logits", 1).eval()
    exported = export_model(
        network, ExportSettings(to=tmp_path, name="n"), preprocessing=plain_preprocessing((3, 8, 8))
    )
    (layer,) = exported.manifest.layer_map.layers
    assert (layer.name, layer.value, layer.status) == ("logits", "logits", manifest.EXACT)


class Box(nn.Module):
    """A module whose input is an attribute that its parent sets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.features = nn.Conv2d(3, 4, 3), torch.zeros(0)

    def forward(self) -> torch.Tensor:
        return self.conv(self.features)


class Parent(nn.Module):
    """A network that passes its input to a module as an attribute, under a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.box, self.bn, self.fc = Box(), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.box.features = x
        return self.fc(self.bn(self.box()).mean((2, 3)))


def test_an_input_that_is_an_attribute() -> None:
    """A module without tensor arguments is not called constant if its output varies."""
    layers = mapped(Parent())
    assert status(layers["box"]) == ("FOLDED", "bn")
