"""A locally connected network: windows as in a convolution, but no weight is shared between positions."""

from typing import Any, ClassVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.layers import LocallyConnected2d
from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import FlatHead, Pool, pool2d
from zoo.networks.size_check import size_after


class LocalNet(Net):
    """Two locally connected layers of 3x3 windows with a pool after each, for images of `img_size` (H, W).

    Raises:
        SettingsError: a pool does not fit; height and width must be multiples of 4.
    """

    layer_groups: ClassVar = {"stem": r"^local1\.", "blocks": r"^local(\d)\."}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: tuple[int, int] = (8, 8),
        pool: Pool = "max",
        drop_rate: float = 0.0,
    ) -> None:
        pool1, pool2 = pool2d(pool, 8), pool2d(pool, 16)
        half = size_after("pool1", pool1, img_size)
        quarter = size_after("pool2", pool2, half)
        features = 16 * quarter[0] * quarter[1]
        levels = (level("act1", 8, 1), level("act2", 16, 2))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=features, feature_info=levels)
        self.local1 = LocallyConnected2d(in_chans, 8, 3, input_size=img_size, padding=1)
        self.act1 = nn.ReLU()
        self.pool1 = pool1
        self.local2 = LocallyConnected2d(8, 16, 3, input_size=(half[0], half[1]), padding=1)
        self.act2 = nn.ReLU()
        self.pool2 = pool2
        self.flatten = nn.Flatten()
        self.head = FlatHead(features, num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self._fine_stage, x)  # (N, 8, H/2, W/2)
        x = self.run(self._coarse_stage, x)  # (N, 16, H/4, W/4)
        y: Tensor = self.flatten(x)  # (N, H * W)
        return y

    def _fine_stage(self, x: Tensor) -> Tensor:
        x = self.act1(self.local1(x))  # (N, 8, H, W)
        y: Tensor = self.pool1(x)  # (N, 8, H/2, W/2)
        return y

    def _coarse_stage(self, x: Tensor) -> Tensor:
        x = self.act2(self.local2(x))  # (N, 16, H/2, W/2)
        y: Tensor = self.pool2(x)  # (N, 16, H/4, W/4)
        return y


default_cfgs = generate_default_cfgs({"localnet": default_cfg((1, 8, 8), first_conv=None, fixed_input_size=True)})


@register_model
def localnet(pretrained: bool = False, **kwargs: Any) -> LocalNet:
    """LocalNet as timm builds it; the keywords are LocalNet's and those of `timm.create_model`."""
    return build_model_with_cfg(LocalNet, "localnet", pretrained, feature_cfg={"out_indices": (0, 1)}, **kwargs)
