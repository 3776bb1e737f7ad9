"""Describes the inputs of a network that has other inputs than one image: shape, datatype and range of each.

Ensures: a description is valid, and can be written as text, `3,32,32:float32:0..1`, as the command line has it.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from export.errors import SettingsError

Dtype = Literal["float32", "int64", "int32", "uint8", "bool"]
Limits = tuple[float, float]

# The values of a datatype with which a model is compared; those of float32 are normally distributed.
DEFAULT_LIMITS: Mapping[str, Limits] = {"int64": (0, 1), "int32": (0, 1), "uint8": (0, 255), "bool": (0, 1)}
LARGEST: Mapping[str, Limits] = {
    "float32": (-3.4e38, 3.4e38),
    "int64": (-(2**53), 2**53),  # beyond, a Python float is not exact
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 255),
    "bool": (0, 1),
}
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
SYNTAX = "NAME=SHAPE[:DTYPE][:LOW..HIGH], such as image=3,224,224 or tokens=16:int64:0..29999"


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        shape: The sizes without the batch, which every input has; () for one number per row.
        dtype: float32, int64, int32, uint8 or bool.
        limits: The smallest and the largest value with which the model is compared. None: float32 values are normally
            distributed, bytes are 0 to 255, other integers 0 or 1. Token ids, for example, need (0, VOCABULARY - 1).
    """

    shape: tuple[int, ...]
    dtype: Dtype = "float32"
    limits: Limits | None = None

    def __post_init__(self) -> None:
        """Reject values out of range. Raises: SettingsError."""
        if not (isinstance(self.shape, tuple) and all(isinstance(size, int) and size > 0 for size in self.shape)):
            raise SettingsError(
                f"the shape of an input must be a tuple of whole numbers, each 1 or more; got {self.shape}."
            )
        if self.dtype not in get_args(Dtype):
            raise SettingsError(f"an input's dtype must be one of {', '.join(get_args(Dtype))}; got '{self.dtype}'.")
        if self.limits is not None:
            _require_limits(self.limits, self.dtype)

    def __str__(self) -> str:
        """Return the description as the command line has it: SHAPE:DTYPE:LOW..HIGH."""
        limits = [f"{self.bounds[0]:.10g}..{self.bounds[1]:.10g}"] if self.bounds else []
        return ":".join([",".join(map(str, self.shape)), self.dtype, *limits])

    @property
    def bounds(self) -> Limits | None:
        """The limits, by default those of the datatype; None for normally distributed values."""
        return self.limits or DEFAULT_LIMITS.get(self.dtype)

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers."""
        return self.dtype == "float32"


def parse_inputs(texts: Iterable[str]) -> dict[str, InputSpec]:
    """Parse inputs as the command line has them, NAME=SHAPE[:DTYPE][:LOW..HIGH]. Raises: SettingsError."""
    inputs: dict[str, InputSpec] = {}
    for text in texts:
        name, equals, description = text.partition("=")
        if not equals:
            raise SettingsError(f"--input must be {SYNTAX}; got '{text}'.")
        if name in inputs:
            raise SettingsError(f"--input names '{name}' twice: name each input once.")
        inputs[name] = _parse(text, description)
    return inputs


def require_valid(inputs: Mapping[str, InputSpec]) -> None:
    """Reject names that are no path of an argument, such as `image` or `batch.image`, and what is no description.

    Raises: SettingsError.
    """
    for name, spec in inputs.items():
        if not isinstance(spec, InputSpec):
            raise SettingsError(
                f"the input '{name}' must be an InputSpec, such as InputSpec((3, 32, 32)); got {spec!r}."
            )
        if not NAME.fullmatch(name):
            raise SettingsError(
                f"'{name}' cannot be the name of an input: it is the name of an argument of the network's forward, "
                "followed for a dict or tuple by a dot and the key, such as image or batch.image."
            )


def _parse(text: str, description: str) -> InputSpec:
    shape, *options = description.split(":")
    dtypes = [option for option in options if ".." not in option]
    limits = [option for option in options if ".." in option]
    if len(dtypes) > 1 or len(limits) > 1:
        raise SettingsError(f"--input must be {SYNTAX}; got '{text}'.")
    try:
        sizes = tuple(int(size) for size in shape.split(",")) if shape.strip() else ()
        low_high = tuple(float(limit) for limit in limits[0].split("..")) if limits else None
    except ValueError:
        raise SettingsError(f"--input must be {SYNTAX}; got '{text}'.") from None
    if low_high is not None and len(low_high) != 2:
        raise SettingsError(f"--input must be {SYNTAX}; got '{text}'.")
    try:
        return InputSpec(sizes, dtypes[0] if dtypes else "float32", low_high)  # type: ignore[arg-type]  # checked there
    except SettingsError as error:
        raise SettingsError(f"--input {text}: {error}") from None


def _require_limits(limits: Limits, dtype: str) -> None:
    low, high = limits
    smallest, largest = LARGEST[dtype]
    is_whole = dtype == "float32" or all(float(limit).is_integer() for limit in limits)
    if not (all(map(math.isfinite, limits)) and smallest <= low < high <= largest and is_whole):
        whole = "" if dtype == "float32" else "whole "
        raise SettingsError(
            f"the limits of {dtype} values must be two {whole}numbers from {smallest:.10g} to {largest:.10g}, the "
            f"smaller one first; got {low:.10g}..{high:.10g}."
        )
