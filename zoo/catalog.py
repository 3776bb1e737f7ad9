"""Every net by name: our own in one table, and behind it all of timm's."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import timm
from torch import nn

from zoo import nets
from zoo.errors import CheckpointError, UnknownNetError
from zoo.preprocessing import Preprocessing


@dataclass(frozen=True)
class Entry:
    """One net of ours; `input_size` is (C, H, W)."""

    builder: Callable[..., nn.Module]
    description: str
    input_size: tuple[int, int, int]
    num_classes: int


CATALOG = {
    "convnet4": Entry(
        builder=nets.convnet4,
        description="four 3x3 convolutions with BatchNorm, then global average pool: 65,834 parameters",
        input_size=(1, 8, 8),
        num_classes=10,
    ),
}


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_rate: float = 0.0,
    pretrained: bool = False,
) -> nn.Module:
    """Build a net of ours or of timm's, with fresh weights drawn from torch's generator.

    What is None stays as the architecture has it.

    Raises:
        UnknownNetError: neither the catalog nor timm has `name`.
        CheckpointError: `pretrained` weights do not exist or cannot be fetched.
    """
    builder = _builder(name)
    given = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate or None}
    arguments = {key: value for key, value in given.items() if value is not None}
    net = _build(name, builder, arguments, pretrained)
    if in_chans is not None:
        _expect_channels(net, in_chans)
    return net


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in CATALOG:
        return CATALOG[name].builder
    if name not in timm.list_models() and name not in timm.list_models(include_tags=True):
        raise UnknownNetError(name, [*CATALOG, *timm.list_models()])

    def build(**arguments: Any) -> nn.Module:
        return timm.create_model(name, **arguments)

    return build


def _build(name: str, builder: Callable[..., nn.Module], arguments: dict[str, float], pretrained: bool) -> nn.Module:
    try:
        return builder(pretrained=pretrained, **arguments)
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        raise CheckpointError(f"the pretrained weights of '{name}' cannot be loaded: {error}") from error


def _expect_channels(net: nn.Module, channels: int) -> None:
    """Let the net's own data config speak of `channels`, with the mean over its former channels in each."""
    own = Preprocessing.from_net(net)
    if own.channels != channels:
        mean, std = sum(own.mean) / own.channels, sum(own.std) / own.channels
        replace(
            own, input_size=(channels, *own.input_size[1:]), mean=(mean,) * channels, std=(std,) * channels
        ).attach_to(net)
