"""The prepared network is compared with the one that the user passed."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from export import ExportSettings, export_model
from export.check.run import check_model
from export.convert import prepare as prepare_module
from export.errors import ConversionError
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
