"""A locally connected network: local windows as in a convolution, but no weight is shared between positions."""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.layers import LocallyConnected2d
from zoo.networks.base import Network, NetworkOptions, feature_level, register
from zoo.networks.blocks import Pool, pool2d
from zoo.networks.size_check import size_after


class LocalNet(Network):
    """Two locally connected layers of 3x3 windows, each followed by a pool, and a linear classifier.

    Input: (N, C, *img_size), H and W multiples of 4. Output: logits (N, num_classes).

    Raises:
        SettingsError: a pool does not fit `img_size`.
    """

    input_size = (1, 8, 8)
    feature_levels = feature_level("act1", 8, 1), feature_level("act2", 16, 2)
    layer_groups: ClassVar = {"stem": r"^local1\.", "blocks": r"^local(\d)\."}

    def __init__(
        self, *, img_size: tuple[int, int] = (8, 8), pool: Pool = "max", **options: Unpack[NetworkOptions]
    ) -> None:
        super().__init__(**options)
        pool1, pool2 = pool2d(pool, 8), pool2d(pool, 16)
        half = size_after("pool1", pool1, img_size)
        quarter = size_after("pool2", pool2, half)
        self.local1 = LocallyConnected2d(self.in_chans, 8, 3, input_size=img_size, padding=1)
        self.act1 = nn.ReLU()
        self.pool1 = pool1
        self.local2 = LocallyConnected2d(8, 16, 3, input_size=(half[0], half[1]), padding=1)
        self.act2 = nn.ReLU()
        self.pool2 = pool2
        self.flatten = nn.Flatten()
        self.add_head(16 * quarter[0] * quarter[1])

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


localnet = register("localnet", LocalNet)
