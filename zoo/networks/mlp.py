"""A fully connected network: every pixel is connected to every unit, so its weights grow with the image's size."""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import Network, NetworkOptions, register


class Mlp(Network):
    """Two hidden layers and a linear classifier.

    The first layer's 512 units equal 8 channels of 8x8, at 64 * 512 weights for an image of 1x8x8. There are no feature
    maps, hence no `features_only`.

    Input: (N, C, *img_size). Output: logits (N, num_classes).
    """

    input_size = (1, 8, 8)
    layer_groups: ClassVar = {"stem": r"^fc1\.", "blocks": r"^fc(\d)\."}

    def __init__(
        self,
        *,
        img_size: tuple[int, int] = (8, 8),
        hidden_features: tuple[int, int] = (512, 64),
        **options: Unpack[NetworkOptions],
    ) -> None:
        super().__init__(**options)
        (height, width), (wide, narrow) = img_size, hidden_features
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(self.in_chans * height * width, wide)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(wide, narrow)
        self.act2 = nn.ReLU()
        self.add_head(narrow)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.run(self._hidden, self.flatten(x))  # (N, 64)

    def _hidden(self, x: Tensor) -> Tensor:
        x = self.act1(self.fc1(x))  # (N, 512)
        y: Tensor = self.act2(self.fc2(x))  # (N, 64)
        return y


mlp = register("mlp", Mlp)
