"""Computes probabilities from a network's logits, in PyTorch and as ONNX nodes.

Requires: logits, float (N, classes).
Ensures: PyTorch and the nodes compute the same function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from export.errors import SettingsError, UnsupportedNetworkError
from export.settings import Activation
from export.source.source_network import SourceNetwork
from protos.keys import MULTI_LABEL

TEMPERATURE = "temperature"
SCALED_LOGITS = "logits_cooled"  # a tensor name in written files: must not change


@dataclass(frozen=True)
class Head:
    """Probabilities are `activation(logits / temperature)`.

    Attributes:
        activation: softmax if an image has exactly one class, sigmoid if the classes are independent.
        temperature: Greater than 0; 1 leaves the logits unscaled.
    """

    activation: Activation = "softmax"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range. Raises: SettingsError."""
        if self.activation not in get_args(Activation):
            raise SettingsError(
                f"activation must be one of {', '.join(get_args(Activation))}; got '{self.activation}'."
            )
        if not 0 < self.temperature < float("inf"):
            raise SettingsError(f"temperature must be a number greater than 0; got {self.temperature}.")

    @property
    def is_scaled(self) -> bool:
        """Whether the temperature has an effect."""
        return self.temperature != 1.0

    @property
    def sensitivity(self) -> float:
        """The largest difference of a probability per difference of the logits.

        A softmax's derivatives p_i (1 - p_i) and -p_i p_j have absolute values that sum to 2 p_i (1 - p_i), at most a
        half; a sigmoid's derivative p (1 - p) is at most a quarter.
        """
        return (0.5 if self.activation == "softmax" else 0.25) / self.temperature

    def apply(self, logits: Tensor) -> Tensor:
        """Return the probabilities, computed by PyTorch.

        Raises: UnsupportedNetworkError for a softmax of a single logit, which is always 1.
        """
        if self.activation == "softmax" and logits.shape[1] == 1:
            raise UnsupportedNetworkError(
                "the network returns one logit, and a softmax of one logit is always 1: use --activation sigmoid for "
                "the probability of one label, or --raw for a regression."
            )
        scaled = logits / self.temperature if self.is_scaled else logits
        return scaled.softmax(-1) if self.activation == "softmax" else scaled.sigmoid()

    def nodes(self, logits: str, probabilities: str) -> Sequence[onnx.NodeProto]:
        """Return the nodes that compute `probabilities` from `logits`; they need the initializers of `constants()`."""
        scaled = SCALED_LOGITS if self.is_scaled else logits
        scaling = (
            [helper.make_node("Div", [logits, TEMPERATURE], [SCALED_LOGITS], SCALED_LOGITS)] if self.is_scaled else []
        )
        if self.activation == "sigmoid":
            return [*scaling, helper.make_node("Sigmoid", [scaled], [probabilities], probabilities)]
        return [*scaling, helper.make_node("Softmax", [scaled], [probabilities], probabilities, axis=-1)]

    def constants(self) -> Sequence[onnx.TensorProto]:
        """Return the initializers that the nodes of `nodes()` use."""
        value = np.array(self.temperature, np.float32)
        return [numpy_helper.from_array(value, TEMPERATURE)] if self.is_scaled else []


def head_of(source: SourceNetwork, activation: Activation | None, calibrated: bool) -> Head:
    """Return the head with `activation`, by default that of the network's task: sigmoid for multi-label, else softmax.

    Raises:
        SettingsError: `calibrated` is set, but no temperature was fitted.
    """
    activation = activation or ("sigmoid" if source.task == MULTI_LABEL else "softmax")
    if not calibrated:
        return Head(activation)
    if TEMPERATURE not in source.weights.metrics:
        raise SettingsError(
            f"{source.name} has no temperature: completed runs have one, in RUN/best/metrics.json. Train or tune a "
            "network, or omit --calibrated."
        )
    return Head(activation, source.weights.metrics[TEMPERATURE])
