"""The catalog of networks, and `create_model`, which builds these and all of timm's by name."""

import fnmatch
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

SOURCES = ("local-dir:", "hf-hub:")  # timm's prefixes of a folder or hub repository with a network and its weights


@dataclass(frozen=True)
class Entry:
    """A network of the catalog.

    Attributes:
        builder: Function that builds it, with the keyword arguments of `timm.create_model`.
        description: One line for lists of networks.
        input_size: Default input (C, H, W).
        num_classes: Default number of classes.
        fixed_input_size: Whether construction requires the image size.
    """

    builder: Callable[..., nn.Module]
    description: str
    input_size: tuple[int, int, int]
    num_classes: int
    fixed_input_size: bool


def _entry(builder: Callable[..., nn.Module], description: str) -> Entry:
    cfg: Any = timm.get_pretrained_cfg(builder.__name__)
    return Entry(builder, description, cfg.input_size, cfg.num_classes, cfg.fixed_input_size)


CATALOG = {
    "mlp": _entry(networks.mlp, "fully connected: 512 and 64 hidden units"),
    "localnet": _entry(networks.localnet, "locally connected: 3x3 windows, no shared weights"),
    "lenet5": _entry(networks.lenet5, "LeNet-5 of 1998: 5x5 convolutions and tanh"),
    "convnet4": _entry(networks.convnet4, "four 3x3 convolutions with BatchNorm, then global average pool"),
    "bottleneck4": _entry(networks.bottleneck4, "1x1 convolutions squeeze the channels around each 3x3"),
    "allconv": _entry(networks.allconv, "all convolutional: strides for pools, 1x1 for full connections"),
    "vgg_tiny": _entry(networks.vgg_tiny, "VGG-like: stacks of 3x3 convolutions, a pool after each"),
    "resnet8": _entry(networks.resnet8, "CIFAR-style residual network, one block per stage"),
    "resnet20": _entry(networks.resnet20, "CIFAR-style residual network, three blocks per stage"),
    "resnet56": _entry(networks.resnet56, "CIFAR-style residual network, nine blocks per stage"),
    "mobilenet_tiny": _entry(networks.mobilenet_tiny, "MobileNet-like: depthwise separable convolutions"),
    "convnext4": _entry(networks.convnext4, "ConvNeXt-like: 7x7 depthwise windows, LayerNorm, GELU"),
    "signal1d": _entry(networks.signal1d, "1-D convolutions over signals of height 1"),
}


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Return the names of all networks that match a glob: the catalog's, then timm's.

    With `pretrained` the names are those of published weights, NETWORK.WEIGHTS; a pattern may omit the weights.
    """
    if pretrained:
        known = timm.list_models(pretrained=True)
    else:
        known = [*CATALOG, *(name for name in timm.list_models() if name not in CATALOG)]
    return [name for name in known if _matches(name, pattern)]


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
    """Build a network of the catalog or of timm.

    Weights are drawn from torch's global generator unless pretrained ones are requested; a name such as
    `local-dir:PATH` always loads its own. None keeps the architecture's default.

    Args:
        name: A network of the catalog or of timm, `local-dir:PATH` or `hf-hub:OWNER/NAME`.
        num_classes: Number of classes.
        in_chans: Channels of the input image.
        img_size: Size of the input image, (H, W).
        drop_rate: Dropout probability before the classifier, in [0, 1).
        pretrained: Load the published weights.
        pretrained_file: Load these weights: a safetensors file or a state dict saved by PyTorch.

    Raises:
        UnknownNetworkError: neither the catalog nor timm has `name`.
        SettingsError: the network cannot be built with these arguments, e.g. a layer's window does not fit.
        CheckpointError: pretrained weights do not exist, cannot be downloaded, or belong to another network.
    """
    build = _builder(name)
    options: dict[str, Any] = {"in_chans": in_chans, "drop_rate": drop_rate or None}
    if img_size is not None and _has_fixed_input_size(name):
        options["img_size"] = img_size
    arguments = {key: value for key, value in options.items() if value is not None}
    if pretrained or pretrained_file is not None or name.startswith(SOURCES):
        network = build_pretrained(build, name, arguments, num_classes, pretrained_file)
    else:
        classes = {} if num_classes is None else {"num_classes": num_classes}
        network = _build_fresh(build, name, arguments | classes)
    _update_preprocessing(network, in_chans, img_size)
    if name in CATALOG:
        check_size(network, Preprocessing.from_network(network).input_size)
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


def _has_fixed_input_size(name: str) -> bool:
    """Return whether the construction of the architecture requires its image size."""
    if name in CATALOG:
        return CATALOG[name].fixed_input_size
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return cfg is not None and bool(cfg.fixed_input_size)


def _build_fresh(build: Callable[..., nn.Module], name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        network = build(pretrained=False, **arguments)
        _check_patches(network)
        return network
    except SettingsError as error:
        raise SettingsError(f"cannot build network '{name}': {error}") from error
    except (AssertionError, ValueError) as error:
        options = ", ".join(f"{key} {value}" for key, value in arguments.items())
        raise SettingsError(f"cannot build network '{name}' with {options}: {error}") from error


def _check_patches(network: nn.Module) -> None:
    """Reject a transformer without patches, which timm builds if the image is smaller than one patch."""
    if getattr(getattr(network, "patch_embed", None), "num_patches", 1) == 0:
        raise ValueError("the image is smaller than one patch")


def _update_preprocessing(network: nn.Module, in_chans: int | None, img_size: tuple[int, int] | None) -> None:
    """Store another input size in the network's data config; new channels get the mean over the default ones."""
    default = Preprocessing.from_network(network)
    channels, size = in_chans or default.channels, img_size or default.input_size[1:]
    if (channels, *size) == default.input_size:
        return
    changed = replace(default, input_size=(default.channels, *size))
    if channels != default.channels:
        mean, std = sum(default.mean) / default.channels, sum(default.std) / default.channels
        changed = replace(changed, input_size=(channels, *size), mean=(mean,) * channels, std=(std,) * channels)
    changed.attach_to(network)
    config_of(network)["test_input_size"] = None


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.partition(".")[0], pattern)
