"""ConvNet4: four 3x3 convolutions for small images.

It has 65,834 parameters with 1 channel and 10 classes. Every layer is a direct child, called once and never in place,
so each module path (`conv1`, `bn1`, `act1`, ..., `head.fc`) names one tensor.
"""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import PooledNetwork, PooledOptions, feature_level, register
from zoo.networks.blocks import Norm, Pool, he_init, norm2d, pool2d


class ConvNet4(PooledNetwork):
    """Two 3x3 convolutions of 32 filters, a pool, two of 64, then a global average pool and a linear classifier.

    Input: (N, C, H, W), H and W at least 2. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (1, 8, 8), (2, 2), "conv1"
    feature_levels = feature_level("act2", 32, 1), feature_level("act4", 64, 2)
    layer_groups: ClassVar = {"stem": r"^(?:conv|bn)1\.", "blocks": r"^(?:conv|bn)(\d)\."}

    def __init__(self, *, pool: Pool = "max", norm: Norm = "batch", **options: Unpack[PooledOptions]) -> None:
        super().__init__(**options)
        bias = norm == "none"
        self.conv1 = nn.Conv2d(self.in_chans, 32, 3, padding=1, bias=bias)
        self.bn1 = norm2d(norm, 32)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=bias)
        self.bn2 = norm2d(norm, 32)
        self.act2 = nn.ReLU()
        self.pool = pool2d(pool, 32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=bias)
        self.bn3 = norm2d(norm, 64)
        self.act3 = nn.ReLU()
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=bias)
        self.bn4 = norm2d(norm, 64)
        self.act4 = nn.ReLU()
        self.add_head(64)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self._fine_stage, x)  # (N, 32, H, W)
        return self.run(self._coarse_stage, x)  # (N, 64, H/2, W/2)

    def _fine_stage(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))  # (N, 32, H, W)
        y: Tensor = self.act2(self.bn2(self.conv2(x)))  # (N, 32, H, W)
        return y

    def _coarse_stage(self, x: Tensor) -> Tensor:
        x = self.pool(x)  # (N, 32, H/2, W/2)
        x = self.act3(self.bn3(self.conv3(x)))  # (N, 64, H/2, W/2)
        y: Tensor = self.act4(self.bn4(self.conv4(x)))  # (N, 64, H/2, W/2)
        return y


convnet4 = register("convnet4", ConvNet4)
