"""Gradient ascent on the image: argmax f(I) - R(I), where the penalty R keeps the image from turning to noise."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.insight.responses import response, unit


@dataclass(frozen=True)
class AscentSettings:
    """How an image is improved.

    The penalties are `l2` times the mean square and `variation` times the mean absolute difference of neighbours.
    `jitter_px` moves the image at random before each step. `noise` is how far from zero it starts: at zeros a ReLU
    network without biases has no gradient at all.
    """

    steps: int = 200
    lr: float = 0.05
    l2: float = 3.0
    variation: float = 1.0
    jitter_px: int = 1
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or min(self.l2, self.variation, self.jitter_px, self.noise) < 0:
            raise SettingsError(f"steps and lr must be greater than 0, the rest at least 0; got {self}")


def ascend(
    network: nn.Module,
    layer: str,
    channel: int,
    input_size: tuple[int, int, int],
    settings: AscentSettings | None = None,
) -> Tensor:
    """Return an image, float (C, H, W) as the network takes it, to which the channel's middle unit responds strongly.

    See https://arxiv.org/abs/1312.6034, eq. 1. The caller's random generator is left alone.

    Raises:
        SettingsError: there is no such layer or channel.
    """
    options = settings or AscentSettings()
    generator = torch.Generator().manual_seed(options.seed)
    image = (options.noise * torch.randn(1, *input_size, generator=generator)).requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=options.lr)
    for _ in range(options.steps):
        moves = torch.randint(-options.jitter_px, options.jitter_px + 1, (2,), generator=generator).tolist()
        with torch.enable_grad():
            moved = torch.roll(image, moves, dims=(-2, -1))
            objective = unit(response(network, layer, moved), channel).sum() - penalty(image, options)
            (image.grad,) = torch.autograd.grad(-objective, image)
        optimizer.step()
    return image.detach()[0]


def penalty(image: Tensor, settings: AscentSettings) -> Tensor:
    """R(I): large for large numbers and for neighbours that differ."""
    rows, columns = image.diff(dim=-2).abs(), image.diff(dim=-1).abs()
    variation = (rows.sum() + columns.sum()) / image.numel()
    return settings.l2 * image.square().mean() + settings.variation * variation
