"""New heads for any backbone with timm's interface, convolutional or transformer.

The kinds of heads:

    linear, mlp   classify the backbone's own feature vector (N, head_hidden_size): the pooled features or the class
                  token, after all layers that the backbone has between these and its classifier
    conv1x1       classifies every position of the feature map (N, C, H, W) and averages the scores
    attention     classifies a weighted mean of the positions; the weights are learned
    flat          classifies the flattened map (N, C * H * W), which keeps positions and fixes the input size
"""

import copy
from collections import OrderedDict
from typing import Any, get_args

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.networks.blocks import check_choice
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.timm_config import config_of
from zoo.settings import Head
from zoo.transfer.truncate import cut_after


class Conv1x1Head(nn.Module):
    """A 1x1 convolution to class scores (N, classes, H, W), the output of `fc`, and their mean over all positions."""

    def __init__(self, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(drop_rate)
        self.fc = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.drop(x))  # (N, classes, H, W)
        return scores.mean(dim=(2, 3))  # (N, classes)


class AttentionHead(nn.Module):
    """A linear classifier of a weighted mean of the positions.

    The weights are a softmax of w tanh(V h), where h are the features of a position: Ilse et al.,
    https://arxiv.org/abs/1802.04712, eq. 8.
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


class HeadedNetwork(nn.Module):
    """A backbone without its classifier, and a head; the backbone's layers keep their paths, prefixed by `backbone.`.

    Attributes:
        on_map: Whether the head classifies the feature map instead of the backbone's feature vector.
        cut_after: Path of the layer at which the backbone was truncated; None if it is complete.
    """

    cut_after: str | None = None

    def __init__(self, backbone: nn.Module, head: nn.Module, *, on_map: bool, num_classes: int) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = head
        self.on_map = on_map
        self.num_classes = num_classes
        self.num_features: Any = backbone.num_features
        self.pretrained_cfg = self.default_cfg = config_of(backbone)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone.forward_features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, num_classes), or with `pre_logits` the head's input, a vector or a map."""
        head_input = _head_input(self.backbone, x, self.on_map)
        y: Tensor = head_input if pre_logits else self.head(head_input)
        return y

    def get_classifier(self) -> nn.Module:
        return self.head.get_submodule("fc")


def attach_head(
    network: nn.Module, head: Head, num_classes: int, drop_rate: float = 0.0, *, cut: str | None = None
) -> HeadedNetwork:
    """Replace the classifier, and all layers after `cut`, by a new head; `network` becomes its backbone.

    Args:
        network: A network with timm's model interface, changed in place.
        head: Kind of the head, described at the top of this module.
        num_classes: Number of classes, at least 1.
        drop_rate: Dropout probability in the head, in [0, 1).
        cut: Path of the layer whose output becomes the features; None keeps the whole backbone.

    Raises:
        SettingsError: the network has no features, or not of the kind that the head needs, or cannot be cut there.
    """
    check_choice("head", head, get_args(Head))
    if num_classes < 1 or not 0 <= drop_rate < 1:
        raise SettingsError(
            f"a head requires 1 class or more and a drop_rate in [0, 1); got {num_classes} and {drop_rate}"
        )
    on_map = head in ("conv1x1", "attention", "flat")
    _check_interface(network)
    if cut:
        cut_after(network, cut)
    width = _width(network, head, on_map)
    backbone: Any = network
    backbone.reset_classifier(0)
    headed = HeadedNetwork(network, _head(head, width, num_classes, drop_rate), on_map=on_map, num_classes=num_classes)
    headed.cut_after = cut
    return headed


def feature_map(network: nn.Module, features: Tensor) -> Tensor:
    """Return features of any layout as (N, C, H, W); tokens as (N, C, tokens, 1), without class and register tokens."""
    if features.ndim == 3:  # (N, tokens, C)
        prefix_tokens: Any = getattr(network, "num_prefix_tokens", 0)
        return features[:, prefix_tokens:].transpose(1, 2).unsqueeze(3)
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.permute(0, 3, 1, 2)
    return features


def _head_input(network: Any, features: Tensor, on_map: bool) -> Tensor:
    head_input: Tensor = feature_map(network, features) if on_map else network.forward_head(features, pre_logits=True)
    return head_input


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
    missing = [name for name in ("forward_features", "forward_head", "reset_classifier") if not hasattr(network, name)]
    if missing:
        raise SettingsError(
            f"{type(network).__name__} does not have timm's model interface, which a new head requires: "
            f"it lacks {', '.join(missing)}"
        )


def _width(network: nn.Module, head: Head, on_map: bool) -> int:
    """Return the channels of the head's input, or all of its elements for `flat`, by a run on the meta device."""
    meta_network: Any = copy.deepcopy(network).to("meta").eval()
    x = torch.empty(1, *Preprocessing.from_network(network).input_size, device="meta")
    features = meta_network.forward_features(x)
    if not isinstance(features, Tensor) or (on_map and features.ndim < 3):
        output = f"a vector of {features.shape[1]}" if isinstance(features, Tensor) else type(features).__name__
        raise SettingsError(
            f"head '{head}' requires a feature map; {type(network).__name__} produces {output}: choose linear or mlp"
        )
    head_input = _head_input(meta_network, features, on_map)
    return int(head_input[0].numel() if head == "flat" else head_input.shape[1])
