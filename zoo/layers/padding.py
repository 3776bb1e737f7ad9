"""Sliding windows on one axis: padding by name, and the number of positions."""

from typing import Literal

from zoo.errors import SettingsError

Padding = Literal["valid", "same"] | int


def resolve_padding(padding: Padding, kernel_size: int, stride: int = 1, dilation: int = 1) -> int:
    """Return the number of elements to add at each end of an axis.

    "valid" adds none. "same" keeps the length; equal padding at both ends achieves this only with stride 1 and an odd
    effective kernel size, dilation * (kernel_size - 1) + 1.

    Raises:
        SettingsError: "same" is impossible, or `padding` is negative or an unknown name.
    """
    _check_window(kernel_size, stride, dilation)
    if padding == "valid":
        return 0
    if padding == "same":
        return _same_padding(dilation * (kernel_size - 1) + 1, stride)
    if not isinstance(padding, int) or padding < 0:
        raise SettingsError(f"padding must be 'valid', 'same' or an integer of at least 0; got {padding!r}")
    return padding


def count_windows(length: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return a window's number of positions: (length + 2 padding - effective kernel size) / stride + 1, rounded down.

    Padding may remain uncovered at the end of the axis, data may not.

    Raises:
        SettingsError: the window does not fit, or no position covers the last elements of the axis.
    """
    _check_window(kernel_size, stride, dilation)
    steps = length + 2 * padding - (dilation * (kernel_size - 1) + 1)
    window = f"a window of {kernel_size} (stride {stride}, padding {padding}, dilation {dilation})"
    if length < 1 or steps < 0:
        raise SettingsError(f"{window} does not fit a length of {length}; it requires {max(1, length - steps)} or more")
    uncovered = steps % stride - padding
    if uncovered > 0:
        fitting = " or ".join(str(size) for size in (length - uncovered, length - uncovered + stride) if size > 0)
        raise SettingsError(
            f"{window} does not cover the last {min(uncovered, length)} of {length} elements; lengths of {fitting} fit"
        )
    return steps // stride + 1


def _same_padding(effective_kernel: int, stride: int) -> int:
    if stride != 1:
        raise SettingsError(f"padding 'same' requires stride 1; got {stride}: use a number instead")
    if effective_kernel % 2 == 0:
        raise SettingsError(
            f"padding 'same' requires an odd window, for equal padding at both ends; got {effective_kernel}: "
            "use a number instead"
        )
    return (effective_kernel - 1) // 2


def _check_window(kernel_size: int, stride: int, dilation: int) -> None:
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise SettingsError(f"{name} must be 1 or more; got {value}")
