"""Base classes of the networks: timm's model interface and the options that several networks share.

A subclass declares its configuration as class attributes, creates its layers in `__init__` (the last one by `add_head`)
and defines `forward_features`; `register` makes it available by name.
"""

import sys
from collections.abc import Callable
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack, get_args

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.networks.blocks import Dropout, FlatHead, GlobalPool, check_choice


class NetworkOptions(TypedDict, total=False):
    """Keyword arguments of every network.

    Attributes:
        num_classes: Number of classes; 0 leaves out the classifier.
        in_chans: Channels of the input image.
        drop_rate: Dropout probability before the classifier, in [0, 1).
    """

    num_classes: int
    in_chans: int
    drop_rate: float


class PooledOptions(NetworkOptions, total=False):
    """Keyword arguments of a `PooledNetwork`.

    Attributes:
        global_pool: Pooling over all positions before the classifier; "" leaves the feature map as it is.
    """

    global_pool: GlobalPool


class StagedOptions(PooledOptions, total=False):
    """Keyword arguments of a `StagedNetwork`.

    Attributes:
        stage_drop_rate: Dropout probability after each stage, in [0, 1).
        stage_dropout: "spatial" drops whole channels, "standard" drops single values.
    """

    stage_drop_rate: float
    stage_dropout: Dropout


class Network(nn.Module):
    """A network with timm's model interface, whose features are one vector (N, num_features).

    Attributes:
        input_size: Default input (C, H, W).
        min_size: Smallest (H, W) of the input; None if the size is fixed at construction, by `img_size`.
        default_classes: Number of classes unless `num_classes` is passed.
        first_conv: Path of the first layer if that is a convolution; timm adapts its weights to another `in_chans`.
        feature_levels: The feature maps that timm's `features_only` returns, see `feature_level`.
        layer_groups: Regular expressions for the parameters of the stem and of the blocks, see `group_matcher`.
    """

    input_size: ClassVar[tuple[int, int, int]]
    min_size: ClassVar[tuple[int, int] | None] = None
    default_classes: ClassVar[int] = 10
    first_conv: ClassVar[str | None] = None
    feature_levels: ClassVar[tuple[dict[str, Any], ...]] = ()
    layer_groups: ClassVar[dict[str, str]]
    head: nn.Module

    def __init__(self, *, num_classes: int | None = None, in_chans: int | None = None, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = self.default_classes if num_classes is None else num_classes
        self.in_chans = self.input_size[0] if in_chans is None else in_chans
        self.drop_rate = drop_rate
        self.feature_info = [dict(level) for level in self.feature_levels]  # timm's `features_only` changes them
        self.grad_checkpointing = False

    def add_head(self, num_features: int) -> None:
        """Create the classifier `head`, which must be the last layer, for features of that width."""
        self.num_features = self.head_hidden_size = num_features
        self.head = self._new_head()

    def _new_head(self) -> nn.Module:
        return FlatHead(self.num_features, self.num_classes, self.drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not define forward_features")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, num_classes), or with `pre_logits` the classifier's input (N, head_hidden_size)."""
        y: Tensor = self.head(x, pre_logits=pre_logits)
        return y

    def get_classifier(self) -> nn.Module:
        return self.head.get_submodule("fc")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a newly initialised one; 0 classes remove it."""
        self.num_classes = num_classes
        reset: Any = self.head.reset
        reset(num_classes, pool_type=global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return the patterns by which timm groups parameters for layer-wise learning rates; `coarse` has no effect."""
        return self.layer_groups

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory. The second forward pass updates BatchNorm's running statistics once more."""
        self.grad_checkpointing = enable

    def run(self, stage: Any, x: Tensor) -> Tensor:
        """Apply a stage; under gradient checkpointing the backward pass recomputes its activations."""
        y: Tensor = checkpoint(stage, x, use_reentrant=False) if self.grad_checkpointing else stage(x)
        return y


class PooledNetwork(Network):
    """A network whose features are a map (N, num_features, H, W), which its head pools."""

    def __init__(self, *, global_pool: GlobalPool = "avg", **options: Unpack[NetworkOptions]) -> None:
        super().__init__(**options)
        self._initial_pool = global_pool

    def _new_head(self) -> nn.Module:
        head: nn.Module = ClassifierHead(
            self.num_features, self.num_classes, pool_type=self._initial_pool, drop_rate=self.drop_rate
        )
        return head


class StagedNetwork(PooledNetwork):
    """A pooled network of stages, each optionally followed by dropout."""

    def __init__(
        self, *, stage_drop_rate: float = 0.0, stage_dropout: Dropout = "spatial", **options: Unpack[PooledOptions]
    ) -> None:
        super().__init__(**options)
        check_choice("stage_dropout", stage_dropout, get_args(Dropout))
        self.stage_drop_rate, self.stage_dropout = stage_drop_rate, stage_dropout

    def stage(self, *blocks: nn.Module) -> nn.Sequential:
        """Return the blocks in sequence, followed by dropout if `stage_drop_rate` is not 0."""
        if self.stage_drop_rate == 0:
            return nn.Sequential(*blocks)
        dropout = nn.Dropout2d if self.stage_dropout == "spatial" else nn.Dropout
        return nn.Sequential(*blocks, dropout(self.stage_drop_rate))


def feature_level(module: str, channels: int, reduction: int) -> dict[str, Any]:
    """Return an entry of timm's `feature_info`: a module whose output is a map of 1/reduction of the input's size."""
    return {"module": module, "num_chs": channels, "reduction": reduction}


NetworkT = TypeVar("NetworkT", bound=Network)


def register(name: str, network_class: type[NetworkT], **arguments: Any) -> Callable[..., NetworkT]:
    """Register a network with timm by `name`, and return its entry point.

    The entry point accepts the keyword arguments of `network_class` and those of `timm.create_model`; `arguments` are
    the ones that distinguish this variant from others of the class.
    """

    def entry_point(pretrained: bool = False, **options: Any) -> NetworkT:
        levels = tuple(range(len(network_class.feature_levels)))
        feature_cfg = {"out_indices": levels} if levels else {}
        return build_model_with_cfg(network_class, name, pretrained, feature_cfg=feature_cfg, **arguments, **options)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__module__ = network_class.__module__
    entry_point.__doc__ = network_class.__doc__
    module: Any = sys.modules[entry_point.__module__]
    default_cfgs = generate_default_cfgs({name: _default_cfg(network_class)})
    module.default_cfgs = {**getattr(module, "default_cfgs", {}), **default_cfgs}  # read by register_model
    register_model(entry_point)
    return entry_point


def _default_cfg(network_class: type[Network]) -> dict[str, Any]:
    """Return timm's data config of a network without published weights."""
    channels, min_size = network_class.input_size[0], network_class.min_size
    return {
        "input_size": network_class.input_size,
        "min_input_size": min_size and (channels, *min_size),
        "fixed_input_size": min_size is None,
        "num_classes": network_class.default_classes,
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": network_class.first_conv,
        "classifier": "head.fc",
    }
