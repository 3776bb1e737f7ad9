"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

The names are the paper's: C a convolution, S a subsampling, F a full connection. As is usual today, C3 connects all
of its maps, S2 and S4 are plain pools without weights, and the output is linear with softmax in the loss.
"""

from typing import Any, ClassVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import FlatHead, Pool, pool2d
from zoo.networks.size_check import size_after


class LeNet5(Net):
    """Two 5x5 convolutions without padding, each with a pool, then three full connections.

    `img_size` (H, W) is free as long as every pool divides what it gets: 16, 20, ..., 32, ...

    Raises:
        SettingsError: a convolution or pool does not fit.
    """

    layer_groups: ClassVar = {"stem": r"^c1\.", "blocks": r"^[cf](\d)\."}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: tuple[int, int] = (32, 32),
        pool: Pool = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        levels = (level("tanh1", 6, 1), level("tanh3", 16, 2))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=84, feature_info=levels)
        self.c1 = nn.Conv2d(in_chans, 6, 5)
        self.tanh1 = nn.Tanh()
        self.s2 = pool2d(pool, 6)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.tanh3 = nn.Tanh()
        self.s4 = pool2d(pool, 16)
        size: tuple[int, ...] = img_size
        for path in ("c1", "s2", "c3", "s4"):
            size = size_after(path, self.get_submodule(path), size)
        self.flatten = nn.Flatten()
        self.c5 = nn.Linear(16 * size[0] * size[1], 120)
        self.tanh5 = nn.Tanh()
        self.f6 = nn.Linear(120, 84)
        self.tanh6 = nn.Tanh()
        self.head = FlatHead(84, num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self._convolutions, x)  # (N, 16, 5, 5)
        return self.run(self._connections, x)  # (N, 84)

    def _convolutions(self, x: Tensor) -> Tensor:
        x = self.tanh1(self.c1(x))  # (N, 6, 28, 28)
        x = self.s2(x)  # (N, 6, 14, 14)
        x = self.tanh3(self.c3(x))  # (N, 16, 10, 10)
        y: Tensor = self.s4(x)  # (N, 16, 5, 5)
        return y

    def _connections(self, x: Tensor) -> Tensor:
        x = self.tanh5(self.c5(self.flatten(x)))  # (N, 120)
        y: Tensor = self.tanh6(self.f6(x))  # (N, 84)
        return y


default_cfgs = generate_default_cfgs({"lenet5": default_cfg((1, 32, 32), first_conv="c1", fixed_input_size=True)})


@register_model
def lenet5(pretrained: bool = False, **kwargs: Any) -> LeNet5:
    """LeNet-5 as timm builds it; the keywords are LeNet5's and those of `timm.create_model`."""
    return build_model_with_cfg(LeNet5, "lenet5", pretrained, feature_cfg={"out_indices": (0, 1)}, **kwargs)
