"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

Layer names are the paper's: C for convolution, S for subsampling, F for full connection. As is usual today, C3 connects
all of its maps, S2 and S4 are pools without weights, and the output is linear, with softmax in the loss.
"""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import Network, NetworkOptions, feature_level, register
from zoo.networks.blocks import Pool, pool2d
from zoo.networks.size_check import size_after


class LeNet5(Network):
    """Two 5x5 convolutions without padding, each followed by a pool, then three fully connected layers.

    Input: (N, C, *img_size), H and W such that both pools divide their input: 16, 20, ..., 32, ...
    Output: logits (N, num_classes).

    Raises:
        SettingsError: a convolution or pool does not fit `img_size`.
    """

    input_size, first_conv = (1, 32, 32), "c1"
    feature_levels = feature_level("tanh1", 6, 1), feature_level("tanh3", 16, 2)
    layer_groups: ClassVar = {"stem": r"^c1\.", "blocks": r"^[cf](\d)\."}

    def __init__(
        self, *, img_size: tuple[int, int] = (32, 32), pool: Pool = "avg", **options: Unpack[NetworkOptions]
    ) -> None:
        super().__init__(**options)
        self.c1 = nn.Conv2d(self.in_chans, 6, 5)
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
        self.add_head(84)

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


lenet5 = register("lenet5", LeNet5)
