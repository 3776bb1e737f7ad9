"""What a model file takes and gives, beside what the network in it takes and gives.

Every check asks here for its inputs, and for what the file must give when the network gave something.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from export.errors import UnsupportedNetworkError
from export.interface import image_io, probe_images
from export.interface.head import Head
from export.interface.net_outputs import named_outputs
from export.names import INPUT, LOGITS
from export.settings import ExportSettings
from export.tracing.run import run, unused
from zoo.networks.preprocessing import Preprocessing

Array = npt.NDArray[Any]
Size = tuple[int, int, int]  # channels, height, width
Free = tuple[tuple[int, int], ...]

NOISE = "noise"
TELLING = (NOISE, NOISE, "zeros", "half and half", "a ramp")  # what the telling inputs are
NAMING_BATCH = 2  # inputs on which a network is run only to hear what its outputs are called
FAR = (10, 1e3, 1e6)
# Odd and unlike: no stride of a network fits by chance. Then multiples of 2, 4, 8, 16, 32, 64, which some networks want.
LARGER = ((37, 53), (38, 54), (36, 52), (40, 56), (48, 80), (32, 96), (64, 128))


class Interface(Protocol):
    """One input, named outputs, each with the batch first."""

    input_name: ClassVar[str]

    @property
    def input_size(self) -> Size:
        """(C, H, W) of what the network takes."""

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The heights and widths at which the file is checked: the network's own, and another where they are free."""

    @property
    def net_outputs(self) -> tuple[str, ...]:
        """What the converted graph's outputs are called, in the order in which the network gives them."""

    def at(self, height: int, width: int) -> Self:
        """The same for inputs of that size alone."""

    def noise(self, batch: int) -> Array:
        """`batch` random inputs of the file, the same in every run."""

    def telling(self) -> Array:
        """Inputs on which values that are equal for noise differ."""

    def far(self) -> Array:
        """Inputs that reach where the telling ones do not."""

    def for_net(self, inputs: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the network takes where the file takes `inputs`: (N, C, H, W), in memory of its own."""

    def outputs(self, given: Any) -> dict[str, Tensor]:
        """What the file must give, by name, where the network gave `given`. Raises: UnsupportedNetworkError."""

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of the converted `model` with this interface."""


@dataclass(frozen=True)
class ImageInterface:
    """Bytes of images in, uint8 (N, H, W, C); logits and probabilities out.

    `other_sizes` are those beside the preprocessing's own at which the file is checked, where they are free.
    """

    preprocessing: Preprocessing
    head: Head = field(default_factory=Head)
    other_sizes: Free = ()
    input_name: ClassVar[str] = image_io.IMAGE

    @property
    def input_size(self) -> Size:
        return self.preprocessing.input_size

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (self.input_size[1:], *self.other_sizes)

    @property
    def net_outputs(self) -> tuple[str, ...]:
        return (LOGITS,)

    def at(self, height: int, width: int) -> Self:
        size = (self.preprocessing.channels, height, width)
        return replace(self, preprocessing=replace(self.preprocessing, input_size=size), other_sizes=())

    def noise(self, batch: int) -> Array:
        return probe_images.noise(self.preprocessing, batch)

    def telling(self) -> Array:
        return probe_images.telling(self.preprocessing)

    def far(self) -> Array:
        return probe_images.far(self.preprocessing)

    def for_net(self, inputs: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.preprocessing.normalise(torch.from_numpy(inputs), dtype).contiguous()

    def outputs(self, given: Any) -> dict[str, Tensor]:
        _require_logits(given)
        return {LOGITS: given, image_io.PROBABILITIES: self.head.apply(given)}

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return image_io.attach(model, self.preprocessing, self.head)


@dataclass(frozen=True)
class Raw:
    """What the network itself takes, float32 (N, C, H, W), and gives: any number of tensors, named by `net_outputs`."""

    input_size: Size
    net_outputs: tuple[str, ...]
    other_sizes: Free = ()
    input_name: ClassVar[str] = INPUT

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return (self.input_size[1:], *self.other_sizes)

    def at(self, height: int, width: int) -> Self:
        return replace(self, input_size=(self.input_size[0], height, width), other_sizes=())

    def noise(self, batch: int) -> Array:
        return np.random.default_rng(batch).standard_normal((batch, *self.input_size), np.float32)

    def telling(self) -> Array:
        """Two of noise, zeros, ones beside zeros, a ramp."""
        _, height, width = self.input_size
        inputs = np.concatenate([self.noise(2), np.zeros((3, *self.input_size), np.float32)])
        inputs[3, ..., : (width + 1) // 2] = 1
        inputs[4] = np.linspace(-2, 2, height * width, dtype=np.float32).reshape(height, width)
        return inputs

    def far(self) -> Array:
        """Ten, a thousand and a million times as large; the nearer ones tell where the farther ones overflow."""
        return self.noise(len(FAR)) * np.array(FAR, np.float32).reshape(-1, 1, 1, 1)

    def for_net(self, inputs: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(inputs, dtype=dtype)

    def outputs(self, given: Any) -> dict[str, Tensor]:
        named = named_outputs(given)
        if tuple(named) != self.net_outputs:
            raise UnsupportedNetworkError(
                f"the network gives {', '.join(self.net_outputs)} for some inputs and {', '.join(named)} for others: "
                "a file gives the same tensors for all."
            )
        return named

    def attach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return model


def interface_of(network: nn.Module, preprocessing: Preprocessing, settings: ExportSettings, head: Head) -> Interface:
    """Return the interface that `settings` asks for. Raises: UnsupportedNetworkError."""
    others = (_another_size(network, preprocessing.input_size),) if settings.dynamic_size else ()
    if not settings.raw:
        return ImageInterface(preprocessing, head, others)
    unnamed = Raw(preprocessing.input_size, ())
    given = run(unused(network), unnamed.for_net(unnamed.noise(NAMING_BATCH)))
    return Raw(unnamed.input_size, tuple(named_outputs(given)), others)


def _another_size(network: nn.Module, size: Size) -> tuple[int, int]:
    """The first larger height and width that the network takes; where it takes none, the first, which then is refused."""
    larger = [(size[1] + height, size[2] + width) for height, width in LARGER]
    return next((each for each in larger if _takes(network, (size[0], *each))), larger[0])


def require_any_size(network: nn.Module, size: Size) -> None:
    """Refuse a network that does not take inputs larger than `size` by an odd height and width. Raises: UnsupportedNetworkError."""
    try:
        _run_at(network, (size[0], size[1] + LARGER[0][0], size[2] + LARGER[0][1]))
    except UnsupportedNetworkError as error:
        raise UnsupportedNetworkError(f"the input's height and width cannot be free: {error}") from error


def _takes(network: nn.Module, size: Size) -> bool:
    try:
        _run_at(network, size)
    except UnsupportedNetworkError:
        return False
    return True


def _run_at(network: nn.Module, size: Size) -> None:
    run(unused(network), torch.zeros(NAMING_BATCH, *size))


def _require_logits(given: Any) -> None:
    if not isinstance(given, Tensor) or given.ndim != 2 or not given.is_floating_point():
        got = f"{given.dtype} of {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise UnsupportedNetworkError(
            f"the network must give logits, one float tensor of (N, classes); it gives {got}. "
            "Export it with raw outputs (--raw) if that is meant."
        )
