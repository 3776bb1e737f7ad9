"""The inputs and outputs of a model file, and their relation to those of the network.

All checks get their inputs and the expected outputs of the file from an interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.interface import image_io, probe_images
from export.interface.check_sizes import BATCH, Size, second_size
from export.interface.head import Head
from export.interface.network_outputs import named_outputs
from export.names import IMAGE, INPUT, LOGITS, PROBABILITIES
from export.settings import ExportSettings
from export.tracing.run import NetworkOutput, fresh_copy, run
from zoo.networks.preprocessing import Preprocessing

NOISE = "noise"
PROBE_KINDS = (
    NOISE,
    NOISE,
    "zeros",
    "half and half",
    "a ramp",
)  # the kinds of the probe inputs, as the manifest has them
RAW_CONSTANTS = {"zeros": 0.0, "ones": 1.0, "constant": -0.5}
OUT_OF_RANGE_SCALES = (10, 1e3, 1e6)


class Interface(Protocol):
    """One input and named outputs; the first dimension of each is the batch."""

    input_name: ClassVar[str]

    @property
    def input_size(self) -> Size:
        """(C, H, W) of the network's input."""

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths at which the file is checked: the network's own, and a second one if they are dynamic."""

    @property
    def network_outputs(self) -> tuple[str, ...]:
        """The names of the converted graph's outputs, in the network's order."""

    def at(self, height: int, width: int) -> Self:
        """Return this interface for inputs of one size."""

    def noise(self, batch: int) -> Array:
        """Return `batch` random inputs of the file, the same in every run."""

    def probe_inputs(self) -> Array:
        """Return inputs of the kinds PROBE_KINDS, which distinguish values that are equal for noise."""

    def out_of_range_inputs(self) -> Array:
        """Return inputs that exceed the range of the probe inputs."""

    def extreme_inputs(self) -> Mapping[str, Array]:
        """Return inputs of the file at the ends of their range, one row each, by a word for what they are."""

    def network_input(self, inputs: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a new tensor with the network's input (N, C, H, W) for the file's `inputs`."""

    def model_outputs(self, network_output: NetworkOutput) -> dict[str, Tensor]:
        """Return the file's expected outputs, by name. Raises: UnsupportedNetworkError."""

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a copy of the converted `model` with this interface."""


@dataclass(frozen=True)
class ImageInterface:
    """Images in, uint8 (N, H, W, C); logits and probabilities out.

    Attributes:
        preprocessing: The normalisation, and the network's own input size.
        head: Computes the probabilities from the logits.
        other_sizes: Further heights and widths at which the file is checked, if they are dynamic.
    """

    preprocessing: Preprocessing
    head: Head = field(default_factory=Head)
    other_sizes: tuple[tuple[int, int], ...] = ()
    input_name: ClassVar[str] = IMAGE

    @property
    def input_size(self) -> Size:
        return self.preprocessing.input_size

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (self.input_size[1:], *self.other_sizes)

    @property
    def network_outputs(self) -> tuple[str, ...]:
        return (LOGITS,)

    def at(self, height: int, width: int) -> Self:
        size = (self.preprocessing.channels, height, width)
        return replace(self, preprocessing=replace(self.preprocessing, input_size=size), other_sizes=())

    def noise(self, batch: int) -> Array:
        return probe_images.noise(self.preprocessing, batch)

    def probe_inputs(self) -> Array:
        return probe_images.probes(self.preprocessing)

    def out_of_range_inputs(self) -> Array:
        return probe_images.extremes(self.preprocessing)

    def extreme_inputs(self) -> Mapping[str, Array]:
        return probe_images.range_ends(self.preprocessing)

    def network_input(self, inputs: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.preprocessing.normalise(torch.from_numpy(inputs), dtype).contiguous()

    def model_outputs(self, network_output: NetworkOutput) -> dict[str, Tensor]:
        _require_logits(network_output)
        return {LOGITS: network_output, PROBABILITIES: self.head.apply(network_output)}

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return image_io.attach(model, self.preprocessing, self.head)


@dataclass(frozen=True)
class RawInterface:
    """The network's own input, float32 (N, C, H, W), and outputs.

    Attributes:
        input_size: (C, H, W) of the input.
        network_outputs: The names of the output tensors, of which there may be any number.
        other_sizes: Further heights and widths at which the file is checked, if they are dynamic.
    """

    input_size: Size
    network_outputs: tuple[str, ...]
    other_sizes: tuple[tuple[int, int], ...] = ()
    input_name: ClassVar[str] = INPUT

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (self.input_size[1:], *self.other_sizes)

    def at(self, height: int, width: int) -> Self:
        return replace(self, input_size=(self.input_size[0], height, width), other_sizes=())

    def noise(self, batch: int) -> Array:
        return np.random.default_rng(batch).standard_normal((batch, *self.input_size), np.float32)

    def probe_inputs(self) -> Array:
        """Return five inputs: two of noise, zeros, one that is half ones, and a ramp."""
        _, height, width = self.input_size
        inputs = np.concatenate([self.noise(2), np.zeros((3, *self.input_size), np.float32)])
        inputs[3, ..., : (width + 1) // 2] = 1
        inputs[4] = np.linspace(-2, 2, height * width, dtype=np.float32).reshape(height, width)
        return inputs

    def out_of_range_inputs(self) -> Array:
        """Return noise at three scales: if the largest overflows, the others still distinguish values."""
        scales = np.array(OUT_OF_RANGE_SCALES, np.float32).reshape(-1, 1, 1, 1)
        return self.noise(len(OUT_OF_RANGE_SCALES)) * scales

    def extreme_inputs(self) -> Mapping[str, Array]:
        """Return zeros, ones, a constant below 0, and noise that is rounded to -1 and 1."""
        constants = {kind: np.full((1, *self.input_size), value, np.float32) for kind, value in RAW_CONSTANTS.items()}
        return {**constants, "saturated": np.sign(self.noise(1))}

    def network_input(self, inputs: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(inputs, dtype=dtype)

    def model_outputs(self, network_output: NetworkOutput) -> dict[str, Tensor]:
        outputs = named_outputs(network_output)
        if tuple(outputs) != self.network_outputs:
            raise UnsupportedNetworkError(
                f"the network returns {', '.join(self.network_outputs)} for some inputs and {', '.join(outputs)} for "
                "others, but a model file returns the same tensors for all inputs."
            )
        return outputs

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return model


def interface_of(network: nn.Module, preprocessing: Preprocessing, settings: ExportSettings, head: Head) -> Interface:
    """Return the interface that `settings` specify. Raises: UnsupportedNetworkError."""
    other_sizes = (second_size(network, preprocessing.input_size),) if settings.dynamic_size else ()
    if not settings.raw:
        return ImageInterface(preprocessing, head, other_sizes)
    unnamed = RawInterface(preprocessing.input_size, ())
    network_output = run(fresh_copy(network), unnamed.network_input(unnamed.noise(BATCH)))
    return RawInterface(unnamed.input_size, tuple(named_outputs(network_output)), other_sizes)


def _require_logits(network_output: Any) -> None:
    is_tensor = isinstance(network_output, Tensor)
    if not is_tensor or network_output.ndim != 2 or not network_output.is_floating_point():
        actual = (
            f"{network_output.dtype} of {list(network_output.shape)}" if is_tensor else type(network_output).__name__
        )
        raise UnsupportedNetworkError(
            f"the network must return logits, one float tensor of (N, classes); it returns {actual}. "
            "To export other outputs, use --raw."
        )
