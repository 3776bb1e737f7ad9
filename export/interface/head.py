"""What becomes of a network's logits: probabilities.

Requires: logits, float (N, classes).
Ensures: PyTorch and the file's own nodes compute the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from export.errors import SettingsError
from export.names import MULTI_LABEL
from zoo import LoadedNetwork

Activation = Literal["softmax", "sigmoid"]
TEMPERATURE = "temperature"
COOLED = "logits_cooled"


@dataclass(frozen=True)
class Head:
    """Probabilities are `activation(logits / temperature)`.

    softmax: an image is of one class; sigmoid: each class is there or not. `temperature` is greater than 0.
    """

    activation: Activation = "softmax"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range. Raises: SettingsError."""
        if self.activation not in get_args(Activation):
            raise SettingsError(f"an activation is one of {', '.join(get_args(Activation))}; got '{self.activation}'.")
        if not 0 < self.temperature < float("inf"):
            raise SettingsError(f"a temperature is a number greater than 0; got {self.temperature}.")

    @property
    def is_cooled(self) -> bool:
        return self.temperature != 1.0

    def apply(self, logits: Tensor) -> Tensor:
        """The probabilities, as PyTorch computes them."""
        cooled = logits / self.temperature if self.is_cooled else logits
        return cooled.softmax(-1) if self.activation == "softmax" else cooled.sigmoid()

    def nodes(self, logits: str, probabilities: str) -> Sequence[onnx.NodeProto]:
        """The same as nodes of a graph that holds `constants()`."""
        given = COOLED if self.is_cooled else logits
        cooling = [helper.make_node("Div", [logits, TEMPERATURE], [COOLED], COOLED)] if self.is_cooled else []
        if self.activation == "sigmoid":
            return [*cooling, helper.make_node("Sigmoid", [given], [probabilities], probabilities)]
        return [*cooling, helper.make_node("Softmax", [given], [probabilities], probabilities, axis=-1)]

    def constants(self) -> Sequence[onnx.TensorProto]:
        value = np.array(self.temperature, np.float32)
        return [numpy_helper.from_array(value, TEMPERATURE)] if self.is_cooled else []


def head_of(given: LoadedNetwork, calibrated: bool) -> Head:
    """Labels that exclude each other share the probability, others do not; a calibrated head has the run's temperature.

    Raises:
        SettingsError: a temperature is asked for where none was fitted.
    """
    activation: Activation = "sigmoid" if given.task == MULTI_LABEL else "softmax"
    if not calibrated:
        return Head(activation)
    if TEMPERATURE not in given.weights.metrics:
        raise SettingsError(
            f"{given.name} has no temperature: runs that have ended have one, as RUN/best/metrics.json shows; "
            "train or tune one, or leave out --calibrated."
        )
    return Head(activation, given.weights.metrics[TEMPERATURE])
