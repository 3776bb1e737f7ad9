"""Every network by name: our own in one table, and behind it all of timm's."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from zoo import networks
from zoo.errors import SettingsError, UnknownNetworkError
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.size_check import check_size
from zoo.networks.timm_config import config_of
from zoo.transfer.pretrained import build_pretrained

SOURCES = (
    "local-dir:",
    "hf-hub:",
)  # timm's prefixes: a folder or a hub's repository that holds a network and its weights


@dataclass(frozen=True)
class Entry:
    """One network of ours; `input_size` is the default (C, H, W), the only one where `fixes_size` and none is asked for."""

    builder: Callable[..., nn.Module]
    description: str
    input_size: tuple[int, int, int]
    num_classes: int = 10
    fixes_size: bool = False


CATALOG = {
    "mlp": Entry(networks.mlp, "fully connected: 512 and 64 hidden units", (1, 8, 8), fixes_size=True),
    "localnet": Entry(
        networks.localnet, "locally connected: 3x3 windows, no shared weights", (1, 8, 8), fixes_size=True
    ),
    "lenet5": Entry(networks.lenet5, "LeNet-5 of 1998: 5x5 convolutions and tanh", (1, 32, 32), fixes_size=True),
    "convnet4": Entry(networks.convnet4, "four 3x3 convolutions with BatchNorm, then global average pool", (1, 8, 8)),
    "bottleneck4": Entry(networks.bottleneck4, "1x1 convolutions squeeze the channels around each 3x3", (1, 8, 8)),
    "allconv": Entry(networks.allconv, "all convolutional: strides for pools, 1x1 for full connections", (3, 32, 32)),
    "vgg_tiny": Entry(networks.vgg_tiny, "VGG-like: stacks of 3x3 convolutions, a pool after each", (3, 32, 32)),
    "resnet8": Entry(networks.resnet8, "CIFAR-style residual network, one block a stage", (3, 32, 32)),
    "resnet20": Entry(networks.resnet20, "CIFAR-style residual network, three blocks a stage", (3, 32, 32)),
    "resnet56": Entry(networks.resnet56, "CIFAR-style residual network, nine blocks a stage", (3, 32, 32)),
    "mobilenet_tiny": Entry(networks.mobilenet_tiny, "MobileNet-like: depthwise separable convolutions", (3, 32, 32)),
    "convnext4": Entry(networks.convnext4, "ConvNeXt-like: 7x7 depthwise windows, LayerNorm, GELU", (3, 32, 32)),
    "signal1d": Entry(networks.signal1d, "1-D convolutions over signals of height 1", (1, 1, 128), num_classes=6),
}


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: tuple[int, int] | None = None,
    drop_rate: float = 0.0,
    pretrained: bool = False,
    pretrained_file: Path | None = None,
) -> nn.Module:
    """Build a network of ours or of timm's, with fresh weights drawn from torch's generator or with pretrained ones.

    What is None stays as the architecture has it. `img_size` is (H, W). `pretrained_file` is a safetensors file or a
    state dict saved by PyTorch; a name such as `local-dir:PATH` always brings its weights.

    Raises:
        UnknownNetworkError: neither the catalog nor timm has `name`.
        SettingsError: the network cannot be built so: a window does not fit, say; the layer is named.
        CheckpointError: pretrained weights do not exist, cannot be fetched, or are of another network.
    """
    build = _builder(name)
    arguments: dict[str, Any] = {"in_chans": in_chans, "drop_rate": drop_rate or None}
    if img_size is not None and _fixes_size(name):
        arguments["img_size"] = img_size
    given = {key: value for key, value in arguments.items() if value is not None}
    if pretrained or pretrained_file is not None or name.startswith(SOURCES):
        network = build_pretrained(build, name, given, num_classes, pretrained_file)
    else:
        network = _build_fresh(build, name, given | ({} if num_classes is None else {"num_classes": num_classes}))
    _expect(network, in_chans, img_size)
    if name in CATALOG:
        check_size(network, Preprocessing.from_net(network).input_size)
    return network


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in CATALOG:
        return CATALOG[name].builder
    known = name.startswith(SOURCES) or name in timm.list_models() or name in timm.list_models(include_tags=True)
    if not known:
        raise UnknownNetworkError(name, [*CATALOG, *timm.list_models()])

    def build(**arguments: Any) -> nn.Module:
        return timm.create_model(name, **arguments)

    return build


def _fixes_size(name: str) -> bool:
    """Whether the architecture must know the size of its images when it is built."""
    if name in CATALOG:
        return CATALOG[name].fixes_size
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return cfg is not None and bool(cfg.fixed_input_size)


def _build_fresh(build: Callable[..., nn.Module], name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        network = build(pretrained=False, **arguments)
        _require_patches(network)
        return network
    except SettingsError as error:
        raise SettingsError(f"the network '{name}' cannot be built so: {error}") from error
    except (AssertionError, ValueError) as error:
        asked = ", ".join(f"{key} {value}" for key, value in arguments.items())
        raise SettingsError(f"the network '{name}' cannot be built with {asked}: {error}") from error


def _require_patches(network: nn.Module) -> None:
    """Refuse a transformer for images smaller than a patch, which timm builds all the same, to see nothing."""
    if getattr(getattr(network, "patch_embed", None), "num_patches", 1) == 0:
        raise ValueError("the image is smaller than one patch")


def _expect(network: nn.Module, in_chans: int | None, img_size: tuple[int, int] | None) -> None:
    """Let the network's own data config speak of what was asked for; each new channel has the mean of the former ones."""
    own = Preprocessing.from_net(network)
    channels, size = in_chans or own.channels, img_size or own.input_size[1:]
    if (channels, *size) == own.input_size:
        return
    changed = replace(own, input_size=(own.channels, *size))
    if channels != own.channels:
        mean, std = sum(own.mean) / own.channels, sum(own.std) / own.channels
        changed = replace(changed, input_size=(channels, *size), mean=(mean,) * channels, std=(std,) * channels)
    changed.attach_to(network)
    config_of(network)["test_input_size"] = None
