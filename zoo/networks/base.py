"""What the networks here have in common: timm's model interface, on top of forward_features and a head."""

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    """A network of timm's interface. A subclass adds its layers, a `head` and `forward_features`.

    The head gives (N, head_hidden_size) before its classifier `head.fc` and (N, num_classes) after it; its `reset`
    puts a new classifier in place. `layer_groups` are the patterns that `group_matcher` returns.
    """

    layer_groups: ClassVar[dict[str, str]]
    head: nn.Module

    def __init__(
        self, *, num_classes: int, in_chans: int, num_features: int, feature_info: tuple[dict[str, Any], ...]
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = num_features
        self.feature_info = list(feature_info)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not define forward_features")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        y: Tensor = self.head(x, pre_logits=pre_logits)
        return y

    def get_classifier(self) -> nn.Module:
        return self.head.get_submodule("fc")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in place; 0 classes removes it."""
        self.num_classes = num_classes
        reset: Any = self.head.reset
        reset(num_classes, pool_type=global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters form a layer, as timm's layer-wise learning rates ask; `coarse` changes nothing here."""
        return self.layer_groups

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory. The second forward pass moves BatchNorm's running statistics once more."""
        self.grad_checkpointing = enable

    def run(self, stage: Any, x: Tensor) -> Tensor:
        """Apply a stage; under gradient checkpointing the backward pass computes its insides again."""
        y: Tensor = checkpoint(stage, x, use_reentrant=False) if self.grad_checkpointing else stage(x)
        return y


def level(module: str, channels: int, reduction: int) -> dict[str, Any]:
    """One entry of timm's `feature_info`: a module whose output is a feature map, 1/reduction of the input's size."""
    return {"module": module, "num_chs": channels, "reduction": reduction}


def default_cfg(
    input_size: tuple[int, int, int],
    *,
    first_conv: str | None,
    min_size: tuple[int, int] | None = None,
    num_classes: int = 10,
    fixed_input_size: bool = False,
) -> dict[str, Any]:
    """timm's data config of a network; `min_size` is the smallest (H, W), where the network does not fix it."""
    channels = input_size[0]
    return {
        "input_size": input_size,
        "min_input_size": (channels, *min_size) if min_size else None,
        "fixed_input_size": fixed_input_size,
        "num_classes": num_classes,
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": first_conv,
        "classifier": "head.fc",
    }
