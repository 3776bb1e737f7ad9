"""How a window slides along one axis: padding by name, and the number of its positions."""

from typing import Literal

from zoo.errors import SettingsError

Padding = Literal["valid", "same"] | int


def resolve_padding(padding: Padding, kernel_size: int, stride: int = 1, dilation: int = 1) -> int:
    """The elements to add at each end of an axis.

    "valid" adds none; "same" keeps the length, which equal padding at both ends can do only for an odd effective
    kernel, dilation * (kernel_size - 1) + 1, and stride 1.

    Raises:
        SettingsError: "same" cannot be done, or `padding` is negative or another word.
    """
    _check_window(kernel_size, stride, dilation)
    if padding == "valid":
        return 0
    if padding == "same":
        return _same(dilation * (kernel_size - 1) + 1, stride)
    if not isinstance(padding, int) or padding < 0:
        raise SettingsError(f"padding is 'valid', 'same' or a number of at least 0; got {padding!r}")
    return padding


def count_windows(length: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """The positions of a window on an axis: (length + 2 padding - effective kernel) / stride + 1.

    What stays over at the end may be padding, which nobody misses, but not data.

    Raises:
        SettingsError: the window does not fit, or the last elements of the axis would be seen by no window.
    """
    _check_window(kernel_size, stride, dilation)
    room = length + 2 * padding - (dilation * (kernel_size - 1) + 1)
    window = f"a window of {kernel_size} (stride {stride}, padding {padding}, dilation {dilation})"
    if length < 1 or room < 0:
        raise SettingsError(f"{window} does not fit on a length of {length}; it needs {max(1, length - room)} or more")
    unseen = room % stride - padding
    if unseen > 0:
        fitting = " or ".join(str(size) for size in (length - unseen, length - unseen + stride) if size > 0)
        raise SettingsError(
            f"{window} leaves the last {min(unseen, length)} of {length} unseen; lengths of {fitting} fit"
        )
    return room // stride + 1


def _same(effective_kernel: int, stride: int) -> int:
    if stride != 1:
        raise SettingsError(f"padding 'same' keeps the length only at stride 1; got stride {stride}: give a number")
    if effective_kernel % 2 == 0:
        raise SettingsError(
            f"padding 'same' needs an odd window, to pad both ends alike; got one of {effective_kernel}: give a number"
        )
    return (effective_kernel - 1) // 2


def _check_window(kernel_size: int, stride: int, dilation: int) -> None:
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise SettingsError(f"{name} must be 1 or more; got {value}")
