"""New heads for any backbone with timm's interface, convolutional or transformer.

`linear` and `mlp` classify the vector that the backbone itself makes of its features, (N, head_hidden_size): pooled,
or the class token, and through whatever layers it has after that. `conv1x1` and `attention` look at the feature map,
(N, C, H, W): a classifier at each position, or a weighted mean of the positions whose weights are learned. `flat`
classifies that map as one long vector, (N, C * H * W), which keeps where things are and fits one input size.
"""

import copy
from collections import OrderedDict
from typing import Any, get_args

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.timm_config import config_of
from zoo.settings import Head
from zoo.transfer.truncate import cut_after


class Conv1x1Head(nn.Module):
    """The mean over all positions of a 1x1 convolution's class scores; `fc` gives their map, (N, classes, H, W)."""

    def __init__(self, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(drop_rate)
        self.fc = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.drop(x))  # (N, classes, H, W)
        return scores.mean(dim=(2, 3))  # (N, classes)


class AttentionHead(nn.Module):
    """A linear classifier of a weighted mean of the positions.

    The weights are a softmax of w tanh(V h), Ilse et al., https://arxiv.org/abs/1802.04712, eq. 8; h a position.
    """

    def __init__(self, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        hidden = max(1, channels // 4)
        self.score = nn.Sequential(
            OrderedDict(hidden=nn.Conv2d(channels, hidden, 1), act=nn.Tanh(), weight=nn.Conv2d(hidden, 1, 1))
        )
        self.softmax = nn.Softmax(dim=2)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.softmax(self.score(x).flatten(2))  # (N, 1, H * W)
        mean = (x.flatten(2) * weights).sum(dim=2)  # (N, C)
        y: Tensor = self.fc(self.drop(mean))  # (N, classes)
        return y


class HeadedNet(nn.Module):
    """A backbone without its classifier, and a head; layers keep their paths behind `backbone.`.

    `cut_after` is the layer after which the backbone ends, None for all of it.
    """

    cut_after: str | None = None

    def __init__(self, backbone: nn.Module, head: nn.Module, *, of_map: bool, num_classes: int) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = head
        self.of_map = of_map
        self.num_classes = num_classes
        self.num_features: Any = backbone.num_features
        self.pretrained_cfg = self.default_cfg = config_of(backbone)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone.forward_features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_classes); before the head, the vector or the map that it takes."""
        taken = feature_map(self.backbone, x) if self.of_map else self.backbone.forward_head(x, pre_logits=True)
        y: Tensor = taken if pre_logits else self.head(taken)
        return y

    def get_classifier(self) -> nn.Module:
        return self.head.get_submodule("fc")


def attach_head(
    network: nn.Module, head: Head, num_classes: int, drop_rate: float = 0.0, *, cut: str | None = None
) -> HeadedNet:
    """Put `network`, which loses its own classifier, and all that comes after its layer `cut`, under a fresh head.

    Raises:
        SettingsError: the network gives no features, or none of the kind that the head needs, or cannot be cut there.
    """
    if head not in get_args(Head):
        raise SettingsError(f"the heads are {', '.join(get_args(Head))}; got '{head}'")
    if num_classes < 1 or not 0 <= drop_rate < 1:
        raise SettingsError(
            f"a head needs 1 class or more and a drop_rate in [0, 1); got {num_classes} and {drop_rate}"
        )
    of_map = head in ("conv1x1", "attention", "flat")
    _check_interface(network)
    if cut:
        cut_after(network, cut)
    width = _width(network, head, of_map)
    backbone: Any = network
    backbone.reset_classifier(0)
    headed = HeadedNet(network, _head(head, width, num_classes, drop_rate), of_map=of_map, num_classes=num_classes)
    headed.cut_after = cut
    return headed


def feature_map(network: nn.Module, features: Tensor) -> Tensor:
    """Features of any layout as (N, C, H, W); tokens as (N, C, tokens, 1) without the class and register tokens."""
    if features.ndim == 3:  # (N, tokens, C)
        skipped: Any = getattr(network, "num_prefix_tokens", 0)
        return features[:, skipped:].transpose(1, 2).unsqueeze(3)
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.permute(0, 3, 1, 2)
    return features


def _head(head: Head, width: int, num_classes: int, drop_rate: float) -> nn.Module:
    if head == "conv1x1":
        return Conv1x1Head(width, num_classes, drop_rate)
    if head == "attention":
        return AttentionHead(width, num_classes, drop_rate)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if head == "mlp":
        layers |= OrderedDict(hidden=nn.Linear(width, width), act=nn.GELU())
    if head == "flat":
        layers |= OrderedDict(flatten=nn.Flatten())
    return nn.Sequential(layers | OrderedDict(drop=nn.Dropout(drop_rate), fc=nn.Linear(width, num_classes)))


def _check_interface(network: nn.Module) -> None:
    kind = type(network).__name__
    missing = [name for name in ("forward_features", "forward_head", "reset_classifier") if not hasattr(network, name)]
    if missing:
        raise SettingsError(f"{kind} gives no features for a head: it lacks {', '.join(missing)}, timm's interface")


def _width(network: nn.Module, head: Head, of_map: bool) -> int:
    """The channels of what the head will take, all numbers of it for `flat`, seen on the network's copy without numbers."""
    kind = type(network).__name__
    shapes: Any = copy.deepcopy(network).to("meta").eval()
    x = torch.empty(1, *Preprocessing.from_net(network).input_size, device="meta")
    features = shapes.forward_features(x)
    if not isinstance(features, Tensor) or (of_map and features.ndim < 3):
        what = f"one vector of {features.shape[1]}" if isinstance(features, Tensor) else type(features).__name__
        raise SettingsError(f"the head '{head}' needs a feature map; {kind} gives {what}: choose linear or mlp")
    taken = feature_map(network, features) if of_map else shapes.forward_head(features, pre_logits=True)
    return int(taken[0].numel() if head == "flat" else taken.shape[1])
