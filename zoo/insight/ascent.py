"""Gradient ascent on the image: argmax f(I) - R(I), where the penalty R keeps the image from becoming noise."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.insight.responses import response, unit


@dataclass(frozen=True)
class AscentSettings:
    """Settings of the gradient ascent.

    Attributes:
        steps: optimisation steps, at least 1.
        lr: Adam's learning rate, above 0.
        l2: weight of the penalty on the mean square of the pixels, at least 0.
        variation: weight of the penalty on the mean absolute difference of neighbouring pixels, at least 0.
        jitter_px: largest random shift of the image before each step, in pixels; 0 disables it.
        noise: standard deviation of the initial image. With 0, a ReLU network without biases has no gradient at all.
        seed: seed of the initial image and of the shifts.
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
            raise SettingsError(f"steps and lr must be above 0, the others at least 0; got {self}")


def ascend(
    network: nn.Module,
    layer: str,
    channel: int,
    input_size: tuple[int, int, int],
    settings: AscentSettings | None = None,
) -> Tensor:
    """Return a normalised image, float (C, H, W), that maximises the response of the channel's middle unit.

    See https://arxiv.org/abs/1312.6034, eq. 1. PyTorch's global random generator is not used.

    Raises:
        SettingsError: there is no such layer or channel.
    """
    settings = settings or AscentSettings()
    generator = torch.Generator().manual_seed(settings.seed)
    image = (settings.noise * torch.randn(1, *input_size, generator=generator)).requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=settings.lr)
    for _ in range(settings.steps):
        shifts = torch.randint(-settings.jitter_px, settings.jitter_px + 1, (2,), generator=generator).tolist()
        with torch.enable_grad():
            shifted = torch.roll(image, shifts, dims=(-2, -1))
            objective = unit(response(network, layer, shifted), channel).sum() - penalty(image, settings)
            (image.grad,) = torch.autograd.grad(-objective, image)
        optimizer.step()
    return image.detach()[0]


def penalty(image: Tensor, settings: AscentSettings) -> Tensor:
    """Return R(I), which grows with the pixels' magnitude and with the differences between neighbours."""
    rows, columns = image.diff(dim=-2).abs(), image.diff(dim=-1).abs()
    variation = (rows.sum() + columns.sum()) / image.numel()
    return settings.l2 * image.square().mean() + settings.variation * variation
