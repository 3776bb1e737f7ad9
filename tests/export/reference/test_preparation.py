"""The prepared network is compared with the one that the user passed."""

import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from timm.models.repvit import RepVggDw
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.ops import FrozenBatchNorm2d

from export import ExportSettings, export_model
from export.check.run import check_model
from export.convert import prepare as prepare_module
from export.errors import ConversionError, UnsupportedNetworkError
from export.source.module import plain_preprocessing
from protos import manifest

SIZE = (3, 16, 16)


class Fused(nn.Module):
    """A block whose own `fuse`, which nobody calls, forgets BatchNorm's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        nn.init.normal_(self.bn.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))

    def fuse(self) -> nn.Module:
        return self.conv


class Reparameterized(nn.Module):
    """A variational block: `reparameterize` samples, and needs arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return mu + logvar.exp()


class FuseAttribute(nn.Module):
    """A block with a layer called `fuse`."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fuse(x)


class Subclass(timm.models.byobnet.MobileOneBlock):
    """A user's block that inherits timm's `reparameterize`, but computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def frozen() -> nn.Module:
    """Return torchvision's frozen BatchNorm with random constants."""
    norm = FrozenBatchNorm2d(3)
    norm.weight.normal_(), norm.bias.normal_(), norm.running_mean.normal_()
    return norm


def difference(network: nn.Module, model: Path) -> float:
    """Return the largest difference between a network and its raw model on noise."""
    x = torch.randn(3, *SIZE)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        return float(np.abs(session.run(None, {"x": x.numpy()})[0] - network(x).numpy()).max())


@pytest.mark.parametrize(
    "block",
    [Fused(), Reparameterized(), FuseAttribute(), Subclass(3, 4, 3), frozen()],
    ids=lambda block: type(block).__name__,
)
def test_methods_of_other_classes_are_not_called(block: nn.Module, tmp_path: Path) -> None:
    """Only timm's and zoo's own classes are re-parameterised: the file computes what the network does."""
    network = nn.Sequential(block, nn.ReLU()).eval()
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(network, settings, preprocessing=plain_preprocessing(SIZE))
    assert difference(network, exported.folder / "model.onnx") < 1e-5


@pytest.fixture(scope="module")
def mobileone() -> nn.Module:
    """Two of timm's blocks that re-parameterisation merges into a convolution each."""
    blocks = [timm.models.byobnet.MobileOneBlock(3, 4, 3), timm.models.byobnet.MobileOneBlock(4, 4, 3)]
    return nn.Sequential(*blocks).eval()


def test_removed_layers_have_entries(mobileone: nn.Module, tmp_path: Path) -> None:
    """A module that only the original calls is said to be folded into the block that contains it."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(mobileone, settings, preprocessing=plain_preprocessing(SIZE))
    layers = {layer.name: layer for layer in exported.manifest.layer_map.layers}
    removed = layers["1.conv_kxk.0.conv"]
    assert (removed.status, removed.of, removed.kind) == (manifest.FOLDED, "1", "Conv2d")
    assert list(removed.shape) == [-1, 4, 16, 16]
    names = list(layers)
    assert names.index("1.conv_kxk.0.conv") < names.index("1")
    assert not [failure for report in check_model(tmp_path) for failure in report.failures]


def test_a_merged_norm_keeps_its_layer(tmp_path: Path) -> None:
    """A method `fuse` that changes a layer inside the block is not called: the layer keeps its path and its output."""
    block = timm.models.efficientvim.ConvLayer2d(3, 4, 3, padding=1)
    nn.init.uniform_(block.norm.weight, 0.5, 1.5)
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(nn.Sequential(block).eval(), settings, preprocessing=plain_preprocessing(SIZE))
    layers = {layer.name: layer for layer in exported.manifest.layer_map.layers}
    assert {name: layer.status for name, layer in layers.items()} == {
        "0.conv": manifest.FOLDED,
        "0.norm": manifest.EXACT,
        "0.act": manifest.EXACT,
        "0": manifest.EXACT,
    }


@pytest.mark.parametrize(
    "block",
    [
        timm.models.efficientvim.ConvLayer2d(3, 4, 3, padding=1),
        timm.models.repghost.RepGhostModule(3, 4),
        timm.models.nextvit.NextConvBlock(32, 32),
    ],
    ids=lambda block: type(block).__name__,
)
def test_blocks_in_which_a_layer_changes_are_kept(block: nn.Module) -> None:
    """A block is not re-parameterised if a layer inside would keep its path, but not what it computes."""
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    prepared = prepare_module.prepare(nn.Sequential(block).eval())
    assert str(prepared[0]) == str(block)  # type: ignore[index]
    assert all(torch.equal(value, prepared.state_dict()[f"0.{name}"]) for name, value in block.state_dict().items())


def test_branches_are_kept_on_request(mobileone: nn.Module, tmp_path: Path) -> None:
    """With keep_branches every layer of the original is in the file."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True, keep_branches=True)
    exported = export_model(mobileone, settings, preprocessing=plain_preprocessing(SIZE))
    layers = {layer.name: layer for layer in exported.manifest.layer_map.layers}
    assert layers["1.conv_kxk.0.bn"].status == manifest.EXACT


def test_a_wrong_preparation_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation that changes the network stops the export, although the file agrees with the prepared network."""
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    monkeypatch.setattr(prepare_module, "reparameterize", lambda network: nn.Sequential(network[0], nn.Tanh()).eval())
    with pytest.raises(ConversionError, match=r"changed its layer '1' .* --keep-branches"):
        export_model(original, ExportSettings(to=tmp_path, name="n", raw=True), preprocessing=plain_preprocessing(SIZE))
    assert list(tmp_path.iterdir()) == []


def green(**hooks: object) -> nn.Module:
    """Return a network whose block of timm is clamped by a hook, which only a green image shows."""
    block = timm.models.repvit.ConvNorm(3, 2, 3, 1, 1)
    block.c.weight.data[:] = torch.tensor([-10.0, 10, -10]).view(1, 3, 1, 1)
    if "hook" in hooks:
        block.register_forward_hook(lambda module, inputs, output: output.clamp(max=20))
    if "forward" in hooks:
        block.forward = types.MethodType(lambda module, x: module.bn(module.c(x)).clamp(max=20), block)
    return nn.Sequential(block).eval()


@pytest.mark.parametrize("changed", ["hook", "forward"])
def test_a_block_that_was_changed_is_not_rewritten(changed: str, tmp_path: Path) -> None:
    """A hook, or a forward of its own, is part of what the block computes."""
    network = green(**{changed: True})
    exported = export_model(
        network, ExportSettings(to=tmp_path, name="n", raw=True), preprocessing=plain_preprocessing(SIZE)
    )
    image = np.zeros((1, *SIZE), np.float32)
    image[:, 1] = 1
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    assert expected.max() == 20
    np.testing.assert_allclose(session.run(None, {"x": image})[0], expected, rtol=1e-5)


def test_a_part_of_another_class_is_not_rewritten(tmp_path: Path) -> None:
    """A user's BatchNorm inside a block of timm keeps its own forward."""

    class Clamped(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).clamp(-0.1, 0.1)

    block = timm.models.repvit.ConvNorm(3, 2, 3, 1, 1)
    block.bn = Clamped(2)
    network = nn.Sequential(block).eval()
    exported = export_model(
        network, ExportSettings(to=tmp_path, name="n", raw=True), preprocessing=plain_preprocessing(SIZE)
    )
    assert difference(network, exported.folder / "model.onnx") < 1e-6


class OnlyFloat32(nn.Module):
    """A network that calls a layer in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Identity(), nn.Linear(768, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.a(x) if x.dtype == torch.float32 else x).flatten(1))


class OnlyOnce(OnlyFloat32):
    """A network that calls the layer `a` in its first run only."""

    first = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, self.first = self.first, False
        return self.fc((self.a(x) if first else x).flatten(1))


class Complex(nn.Module):
    """A network with a layer that returns complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.transform, self.fc = Fourier(), nn.Linear(3 * 16 * 9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.transform(x).abs().flatten(1))


class Fourier(nn.Module):
    """A real Fourier transform."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x)


class GradientHead(nn.Module):
    """A network that enables gradients for its head, whose weights require them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(768, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return self.head(x.flatten(1))


@pytest.mark.parametrize("network", [Complex(), GradientHead()], ids=["complex", "gradients"])
def test_unusual_tensors(network: nn.Module, tmp_path: Path) -> None:
    """Complex layers and outputs that require gradients are compared like any others."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(network.eval(), settings, preprocessing=plain_preprocessing(SIZE))
    assert difference(network, exported.folder / "model.onnx") < 1e-3


def test_a_layer_that_only_float32_calls(tmp_path: Path) -> None:
    """A forward that branches on the dtype of its input takes the branch of float32 in every run."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(OnlyFloat32().eval(), settings, preprocessing=plain_preprocessing(SIZE))
    assert [layer.name for layer in exported.manifest.layer_map.layers] == ["a", "fc"]


def test_a_layer_that_a_later_run_does_not_call(tmp_path: Path) -> None:
    """The error names the layer."""
    with pytest.raises(UnsupportedNetworkError, match="the layer 'a' is called in float32, but not in float64"):
        export_model(
            OnlyOnce().eval(),
            ExportSettings(to=tmp_path, name="n", raw=True),
            preprocessing=plain_preprocessing(SIZE),
        )


@pytest.mark.parametrize(
    "parametrize", [parametrizations.orthogonal, parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_parametrised_weights(parametrize: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    """A weight that a parametrisation computes is a constant in the file; the caller's network keeps computing it."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    parametrize(network[1])
    network.eval()
    exported = export_model(network, ExportSettings(to=tmp_path, name="n"), preprocessing=plain_preprocessing(SIZE))
    layers = {layer.name: (layer.status, layer.of) for layer in exported.manifest.layer_map.layers}
    inside = {name: found for name, found in layers.items() if "parametrizations" in name}
    assert set(inside.values()) == {(manifest.FOLDED, "1")}
    assert network[1].weight is not network[1].weight


class PartOfABlock(nn.Module):
    """Calls a convolution of a block that re-parameterisation removes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = RepVggDw(3, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.block(x) + self.block.conv1(x)).mean((2, 3)))


@pytest.mark.parametrize("raw", [False, True])
def test_a_part_of_a_block_that_is_called_directly(raw: bool, tmp_path: Path) -> None:
    """The error says that the network itself runs, and how to export it; then it is exported."""
    network, settings = PartOfABlock().eval(), ExportSettings(to=tmp_path, name="n", raw=raw)
    with pytest.raises(UnsupportedNetworkError, match=r"runs as it was passed, .* Export with --keep-branches"):
        export_model(network, settings, preprocessing=plain_preprocessing(SIZE))
    kept = replace(settings, keep_branches=True)
    assert export_model(network, kept, preprocessing=plain_preprocessing(SIZE)).version == 1
