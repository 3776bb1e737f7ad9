"""The inputs and outputs of a model file, and their relation to those of the network.

All checks get their inputs and the expected outputs of the file from an interface.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.arrays import Array
from export.errors import SettingsError, UnsupportedNetworkError
from export.input_spec import InputSpec
from export.interface import image_io, probe_arrays, probe_images
from export.interface.check_sizes import BATCH, larger_sizes
from export.interface.forward_call import forward_call, require_one_input
from export.interface.head import Head
from export.interface.network_outputs import named_outputs
from export.names import IMAGE, INPUT, LOGITS, PROBABILITIES
from export.settings import ExportSettings
from export.tracing.arguments import Arguments
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

Inputs = Mapping[str, Array]  # the inputs of the file by name, each with the batch first
Size = tuple[int, ...]  # height and width of an image; empty for other inputs, whose sizes are fixed


@dataclass(frozen=True)
class Derived:
    """An output that the model computes from another one.

    Attributes:
        name: The name of the other output.
        sensitivity: The largest possible difference of a value per difference of the other output's values.
    """

    name: str
    sensitivity: float


class Interface(Protocol):
    """Named inputs and outputs; the first dimension of each is the batch."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of the input image at which the file is checked: the network's own, and another if they are dynamic."""

    @property
    def network_inputs(self) -> Sequence[str]:
        """The names of the converted graph's inputs, in the order of the network's arguments."""

    @property
    def network_outputs(self) -> tuple[str, ...]:
        """The names of the converted graph's outputs, in the network's order."""

    @property
    def derived_outputs(self) -> Mapping[str, Derived]:
        """The model's outputs that are computed from its other ones, by name."""

    def at(self, *size: int) -> Self:
        """Return this interface for inputs of one of `sizes`."""

    def noise(self, batch: int) -> Inputs:
        """Return `batch` random inputs of the file, the same in every run."""

    def probe_inputs(self) -> Inputs:
        """Return inputs of the kinds PROBE_KINDS, which distinguish values that are equal for noise."""

    def out_of_range_inputs(self) -> Inputs:
        """Return inputs that exceed the range of the probe inputs."""

    def extreme_inputs(self) -> Mapping[str, Inputs]:
        """Return inputs of the file at the ends of their range, one row each, by a word for what they are."""

    def example(self, batch: int) -> Arguments:
        """Return valid arguments of the network that are zero where possible."""

    def arguments(self, inputs: Inputs) -> Arguments:
        """Return new tensors with the network's arguments for the file's `inputs`."""

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
    other_sizes: tuple[Size, ...] = ()
    network_inputs: ClassVar[Sequence[str]] = (INPUT,)

    @property
    def sizes(self) -> tuple[Size, ...]:
        return (self.preprocessing.input_size[1:], *self.other_sizes)

    @property
    def network_outputs(self) -> tuple[str, ...]:
        return (LOGITS,)

    @property
    def derived_outputs(self) -> Mapping[str, Derived]:
        return {PROBABILITIES: Derived(LOGITS, self.head.sensitivity)}

    def at(self, *size: int) -> Self:
        height, width = size
        input_size = (self.preprocessing.channels, height, width)
        return replace(self, preprocessing=replace(self.preprocessing, input_size=input_size), other_sizes=())

    def noise(self, batch: int) -> Inputs:
        return {IMAGE: probe_images.noise(self.preprocessing, batch)}

    def probe_inputs(self) -> Inputs:
        return {IMAGE: probe_images.probes(self.preprocessing)}

    def out_of_range_inputs(self) -> Inputs:
        return {IMAGE: probe_images.extremes(self.preprocessing)}

    def extreme_inputs(self) -> Mapping[str, Inputs]:
        return {kind: {IMAGE: images} for kind, images in probe_images.range_ends(self.preprocessing).items()}

    def example(self, batch: int) -> Arguments:
        return Arguments((torch.zeros(batch, *self.preprocessing.input_size),))

    def arguments(self, inputs: Inputs) -> Arguments:
        return Arguments((self.preprocessing.normalise(torch.from_numpy(inputs[IMAGE])).contiguous(),))

    def model_outputs(self, network_output: NetworkOutput) -> dict[str, Tensor]:
        _require_logits(network_output)
        return {LOGITS: network_output, PROBABILITIES: self.head.apply(network_output)}

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return image_io.attach(model, self.preprocessing, self.head)


@dataclass(frozen=True)
class RawInterface:
    """The network's own inputs and outputs.

    Attributes:
        inputs: The inputs by name, in the order of the network's arguments.
        network_outputs: The names of the output tensors, of which there may be any number.
        call: The network's arguments, with the name of an input in place of each tensor.
        other_sizes: Further heights and widths at which the file is checked, if they are dynamic.
    """

    inputs: Mapping[str, InputSpec]
    network_outputs: tuple[str, ...]
    call: Arguments
    other_sizes: tuple[Size, ...] = ()

    @property
    def sizes(self) -> tuple[Size, ...]:
        return (image_size(self.inputs), *self.other_sizes)

    @property
    def network_inputs(self) -> Sequence[str]:
        return tuple(self.inputs)

    @property
    def derived_outputs(self) -> Mapping[str, Derived]:
        return {}

    def at(self, *size: int) -> Self:
        if not size:
            return self
        resized = {name: replace(spec, shape=(spec.shape[0], *size)) for name, spec in self.inputs.items()}
        return replace(self, inputs=resized, other_sizes=())

    def noise(self, batch: int) -> Inputs:
        random = np.random.default_rng(batch)
        return {name: probe_arrays.noise(spec, batch, random) for name, spec in self.inputs.items()}

    def probe_inputs(self) -> Inputs:
        random = np.random.default_rng(BATCH)
        return {name: probe_arrays.probes(spec, random) for name, spec in self.inputs.items()}

    def out_of_range_inputs(self) -> Inputs:
        random = np.random.default_rng(len(probe_arrays.OUT_OF_RANGE_SCALES))
        return {name: probe_arrays.out_of_range(spec, random) for name, spec in self.inputs.items()}

    def extreme_inputs(self) -> Mapping[str, Inputs]:
        random = np.random.default_rng(1)
        by_input = {name: probe_arrays.extremes(spec, random) for name, spec in self.inputs.items()}
        has_limits = any(spec.bounds for spec in self.inputs.values())
        kinds = (*probe_arrays.KINDS, *(probe_arrays.ENDS if has_limits else ()))
        return {kind: {name: arrays[kind] for name, arrays in by_input.items()} for kind in kinds}

    def example(self, batch: int) -> Arguments:
        return self.arguments({name: probe_arrays.example(spec, batch) for name, spec in self.inputs.items()})

    def arguments(self, inputs: Inputs) -> Arguments:
        return self.call.map(lambda name: torch.tensor(inputs[name]))

    def model_outputs(self, network_output: NetworkOutput) -> dict[str, Tensor]:
        outputs = named_outputs(network_output)
        if tuple(outputs) != self.network_outputs:
            _require_no_list_per_image(network_output)
            raise UnsupportedNetworkError(
                f"the network returns {', '.join(self.network_outputs)} for some inputs and {', '.join(outputs)} for "
                "others, but a model file returns the same tensors for all inputs."
            )
        return outputs

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return model


def one_input(shape: tuple[int, ...], network_outputs: tuple[str, ...] = (LOGITS,)) -> RawInterface:
    """Return the interface of a network with one float32 input `x` of (N, *shape)."""
    return RawInterface({INPUT: InputSpec(shape)}, network_outputs, Arguments((INPUT,)))


def image_size(inputs: Mapping[str, InputSpec]) -> Size:
    """Return height and width if the only input is float32 (N, C, H, W), else nothing."""
    specs = list(inputs.values())
    is_image = len(specs) == 1 and len(specs[0].shape) == 3 and specs[0].is_float
    return specs[0].shape[1:] if is_image else ()


def batch_text(batch: int, size: Size) -> str:
    """Return a batch and its image size, if it has one."""
    return f"batch {batch}" + (f" of {'x'.join(map(str, size))}" if size else "")


def interface_of(
    network: nn.Module, preprocessing: Preprocessing | None, settings: ExportSettings, head: Head
) -> Interface:
    """Return the interface that `settings` specify; `preprocessing` may only be None if they have inputs.

    Raises: SettingsError, UnsupportedNetworkError.
    """
    if settings.inputs or preprocessing is None:
        unnamed = _declared(network, settings.inputs)
    else:
        require_one_input(network)
        unnamed = one_input(preprocessing.input_size, ())
    if settings.dynamic_size and not unnamed.sizes[0]:
        raise SettingsError(
            f"height and width are dynamic only for one float32 image, but the network has the inputs "
            f"{', '.join(unnamed.inputs)}: drop --dynamic-size."
        )
    other_sizes = larger_sizes(network, unnamed) if settings.dynamic_size else ()
    if preprocessing is not None and not settings.raw:
        return ImageInterface(preprocessing, head, other_sizes)
    try:
        network_output = run(fresh_copy(network), unnamed.arguments(unnamed.noise(BATCH)))
    except UnsupportedNetworkError as error:
        raise UnsupportedNetworkError(f"{error}{_described(settings.inputs)}") from error
    return replace(unnamed, network_outputs=tuple(named_outputs(network_output)), other_sizes=other_sizes)


def _declared(network: nn.Module, inputs: Mapping[str, InputSpec]) -> RawInterface:
    call = forward_call(network, inputs)
    return RawInterface({name: inputs[name] for name in call.leaves}, (), call)


def _described(inputs: Mapping[str, InputSpec]) -> str:
    """Return a hint on the inputs with which the network was called, if they are declared."""
    texts = ", ".join(f"{name}={spec}" for name, spec in inputs.items())
    return f". It was called with the inputs {texts}: correct --input NAME=SHAPE:DTYPE:LOW..HIGH." if inputs else ""


def _require_no_list_per_image(network_output: NetworkOutput) -> None:
    """Reject the outputs of torchvision's detectors; the number of tensors is known to vary."""
    if isinstance(network_output, list) and all(type(item) is type(network_output[0]) for item in network_output):
        raise UnsupportedNetworkError(
            f"the network returns a list with one {type(network_output[0]).__name__} per image, as torchvision's "
            "detectors do, but a model file returns the same tensors for all batches: export the part of the network "
            "that returns tensors of (N, ...), and select boxes in the client."
        )


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
