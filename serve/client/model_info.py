"""What a server reports about a model and its layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve.client.preprocessing import Preprocessing
from serve.errors import NoSuchLayerError
from serve.wire.tensors import TensorSpec


@dataclass(frozen=True)
class ModelInfo:
    """What a server says of a model. `version` is the newest; labels and preprocessing are an export's.

    Where an image may have several labels, `multi_label`, the probabilities are those of each, and no sum is 1.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    multi_label: bool = False


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a model: `shape` has -1 where the size is free; `whereabouts` says why it cannot be asked for.

    Layers with one `value` are the same tensor in the model's file.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    whereabouts: str = ""
    value: str = ""

    @property
    def fetchable(self) -> bool:
        """Whether a client can have its output."""
        return not self.whereabouts

    @property
    def batch_first(self) -> bool:
        """Whether its first dimension is known to be the batch."""
        return self.shape[:1] == (-1,)


def require_fetchable(layers: Sequence[LayerInfo]) -> None:
    """Refuse layers of which not one is in the model's file. Raises: NoSuchLayerError."""
    if layers and not any(layer.fetchable for layer in layers):
        raise NoSuchLayerError("; ".join(f"'{layer.name}': {layer.whereabouts.rstrip('.')}" for layer in layers) + ".")
