"""A fully connected network: every value of the image goes to every unit, so its weights grow with the image's size."""

from typing import Any, ClassVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg
from zoo.networks.blocks import FlatHead


class Mlp(Net):
    """Two hidden layers and a linear classifier, for images of `img_size` (H, W).

    A first layer of 512 has as many outputs as 8 channels of 8x8, at 64 * 512 weights for an image of 1x8x8. There
    are no feature maps, hence no `features_only`.
    """

    layer_groups: ClassVar = {"stem": r"^fc1\.", "blocks": r"^fc(\d)\."}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: tuple[int, int] = (8, 8),
        hidden_features: tuple[int, int] = (512, 64),
        drop_rate: float = 0.0,
    ) -> None:
        wide, narrow = hidden_features
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=narrow, feature_info=())
        height, width = img_size
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(in_chans * height * width, wide)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(wide, narrow)
        self.act2 = nn.ReLU()
        self.head = FlatHead(narrow, num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.run(self._hidden, self.flatten(x))  # (N, 64)

    def _hidden(self, x: Tensor) -> Tensor:
        x = self.act1(self.fc1(x))  # (N, 512)
        y: Tensor = self.act2(self.fc2(x))  # (N, 64)
        return y


default_cfgs = generate_default_cfgs({"mlp": default_cfg((1, 8, 8), first_conv=None, fixed_input_size=True)})


@register_model
def mlp(pretrained: bool = False, **kwargs: Any) -> Mlp:
    """Mlp as timm builds it; the keywords are Mlp's and those of `timm.create_model`."""
    return build_model_with_cfg(Mlp, "mlp", pretrained, **kwargs)
