"""A server's information about a model and its layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve.client.preprocessing import Preprocessing
from serve.errors import NoSuchLayerError
from serve.wire.tensors import TensorSpec

PROTOBUF_MAX_BYTES = 2**31 - 1  # the limit of any message


@dataclass(frozen=True)
class ModelInfo:
    """A model's signature, labels and preprocessing.

    Attributes:
        name: The model's name on the server.
        version: The newest version; empty if the server reports none.
        inputs: Name, datatype and shape of the inputs, batch first; -1 is a dynamic size.
        outputs: Likewise, of the outputs.
        max_batch_size: Largest number of rows per request; 0 if the model has no batch dimension.
        labels: The class names, by class index; empty if the model has none.
        preprocessing: The preprocessing of images; None if the model does not define it.
        multi_label: Whether an image may have several labels. The probabilities are then independent, and do not sum
            to 1.
        max_message_bytes: Largest request in bytes that the server accepts.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    multi_label: bool = False
    max_message_bytes: int = PROTOBUF_MAX_BYTES


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a model.

    Attributes:
        name: The layer's name, which can be requested as an output.
        kind: The type of the module or of the ONNX node.
        shape: The output's shape; -1 is a dynamic size. Empty if the shape is unknown.
        missing_reason: Why the output cannot be requested; empty if it can.
        value: The tensor in the ONNX file. Layers with the same value are the same tensor.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    missing_reason: str = ""
    value: str = ""

    @property
    def fetchable(self) -> bool:
        """Whether the layer's output can be requested."""
        return not self.missing_reason

    @property
    def batch_first(self) -> bool:
        """Whether the first dimension is known to be the batch."""
        return self.shape[:1] == (-1,)


def is_glob(name: str) -> bool:
    """Return whether a layer name is a pattern; the server validates all other names."""
    return any(wildcard in name for wildcard in "*?[")


def fetchable_names(model: str, pattern: str, matches: Sequence[LayerInfo]) -> list[str]:
    """Return the names of the layers that match `pattern` and can be requested. Raises: NoSuchLayerError."""
    if not matches:
        raise NoSuchLayerError(f"no layer of model '{model}' matches '{pattern}'.")
    require_fetchable(matches)
    return [layer.name for layer in matches if layer.fetchable]


def require_fetchable(layers: Sequence[LayerInfo]) -> None:
    """Raise NoSuchLayerError, with all reasons, if none of the `layers` can be requested."""
    if layers and not any(layer.fetchable for layer in layers):
        reasons = (f"'{layer.name}': {layer.missing_reason.rstrip('.')}" for layer in layers)
        raise NoSuchLayerError("; ".join(reasons) + ".")
