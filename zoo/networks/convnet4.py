"""ConvNet4: four 3x3 convolutions for small images, in timm's model interface.

At 1 channel and 10 classes it has 65,834 parameters. Every layer is a direct child, called once and never in place,
so each module path (`conv1`, `bn1`, `act1`, ..., `head.fc`) names one tensor.
"""

from typing import Any, ClassVar

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import GlobalPool, Norm, Pool, he_init, norm2d, pool2d


class ConvNet4(Net):
    """Two 3x3 convolutions of 32 filters, a pool, two of 64, then global average pool and a linear classifier.

    Takes (N, C, H, W) with H and W of at least 2 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^(?:conv|bn)1\.", "blocks": r"^(?:conv|bn)(\d)\."}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: GlobalPool = "avg",
        pool: Pool = "max",
        norm: Norm = "batch",
        drop_rate: float = 0.0,
    ) -> None:
        levels = (level("act2", 32, 1), level("act4", 64, 2))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=64, feature_info=levels)
        bias = norm == "none"
        self.conv1 = nn.Conv2d(in_chans, 32, 3, padding=1, bias=bias)
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
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
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


default_cfgs = generate_default_cfgs({"convnet4": default_cfg((1, 8, 8), first_conv="conv1", min_size=(2, 2))})


@register_model
def convnet4(pretrained: bool = False, **kwargs: Any) -> ConvNet4:
    """ConvNet4 as timm builds it; the keywords are ConvNet4's and those of `timm.create_model`."""
    return build_model_with_cfg(ConvNet4, "convnet4", pretrained, feature_cfg={"out_indices": (0, 1)}, **kwargs)
