"""ConvNet4: four 3x3 convolutions for small pictures, in timm's model interface.

At 1 channel and 10 classes it has 65,834 parameters. Every layer is a direct child, called once and never in place,
so each module path (`conv1`, `bn1`, `act1`, ..., `head.fc`) names one tensor.
"""

from typing import Any

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ConvNet4(nn.Module):
    """Two 3x3 convolutions of 32 filters, a pool, two of 64, then global average pool and a linear classifier.

    Takes (N, C, H, W) with H and W of at least 2 and gives (N, num_classes) logits.
    """

    def __init__(
        self, num_classes: int = 10, in_chans: int = 1, global_pool: str = "avg", drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 64
        self.grad_checkpointing = False
        self.feature_info = [
            {"num_chs": 32, "reduction": 1, "module": "act2"},
            {"num_chs": 64, "reduction": 2, "module": "act4"},
        ]

        self.conv1 = nn.Conv2d(in_chans, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.act2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.act3 = nn.ReLU()
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(64)
        self.act4 = nn.ReLU()
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.init_weights()

    def init_weights(self) -> None:
        """He initialisation of the convolutions, https://arxiv.org/abs/1502.01852, eq. 10 with fan-out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)  # (N, 64, H/2, W/2)
        return self.forward_head(x)  # (N, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        for stage in (self._fine_stage, self._coarse_stage):
            x = checkpoint(stage, x, use_reentrant=False) if self.grad_checkpointing else stage(x)
        return x

    def _fine_stage(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))  # (N, 32, H, W)
        y: Tensor = self.act2(self.bn2(self.conv2(x)))  # (N, 32, H, W)
        return y

    def _coarse_stage(self, x: Tensor) -> Tensor:
        x = self.pool(x)  # (N, 32, H/2, W/2)
        x = self.act3(self.bn3(self.conv3(x)))  # (N, 64, H/2, W/2)
        y: Tensor = self.act4(self.bn4(self.conv4(x)))  # (N, 64, H/2, W/2)
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        y: Tensor = self.head(x, pre_logits=pre_logits)  # (N, 64) before the classifier, (N, num_classes) after
        return y

    def get_classifier(self) -> nn.Module:
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in place; 0 classes removes it."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters form a layer, as timm's layer-wise learning rates ask; `coarse` changes nothing here."""
        return {"stem": r"^(?:conv|bn)1\.", "blocks": r"^(?:conv|bn)(\d)\."}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory. The second forward pass moves BatchNorm's running statistics once more."""
        self.grad_checkpointing = enable


default_cfgs = generate_default_cfgs(
    {
        "convnet4": {
            "input_size": (1, 8, 8),
            "min_input_size": (1, 2, 2),
            "num_classes": 10,
            "mean": (0.5,),
            "std": (0.5,),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": "head.fc",
        }
    }
)


@register_model
def convnet4(pretrained: bool = False, **kwargs: Any) -> ConvNet4:
    """ConvNet4 as timm builds it; the keywords are ConvNet4's and those of `timm.create_model`."""
    return build_model_with_cfg(ConvNet4, "convnet4", pretrained, feature_cfg={"out_indices": (0, 1)}, **kwargs)
