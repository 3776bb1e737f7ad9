"""Rules for operations with sliding windows (convolution, pool, im2col), and for padding and resizing."""

import math
from collections.abc import Sequence
from fractions import Fraction

from zoo.geometry.sizes import Window, transposed_size
from zoo.geometry.values import Factor, Number, Span, Step, Value, constant_dim, linear_dim, size_of

Numbers = Sequence[int]


def windows_of(
    value: Value, taps: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers = (1,), ceil_mode: bool = False
) -> tuple[Window, ...]:
    """Return one window for each of the last `len(taps)` dimensions of `value`."""
    axes = len(taps)
    shape, margins = value.shape[-axes:], (value.margins or (0,) * value.rank)[-axes:]
    per_axis = (_per_axis(numbers, axes) for numbers in (stride or taps, padding, dilation))
    return tuple(
        Window(rows, axis_taps, axis_stride, axis_padding, axis_dilation, ceil_mode, margin)
        for rows, axis_taps, axis_stride, axis_padding, axis_dilation, margin in zip(
            shape, taps, *per_axis, margins, strict=True
        )
    )


def convolution_windows(
    x: Value, weight: Value, _bias: Value | None, stride: Numbers, padding: Numbers, dilation: Numbers, *_: object
) -> tuple[Window, ...]:
    return windows_of(x, weight.shape[2:], stride, padding, dilation)


def max_pool_windows(
    x: Value,
    kernel_size: Numbers,
    stride: Numbers = (),
    padding: Numbers = (0,),
    dilation: Numbers = (1,),
    ceil_mode: bool = False,
) -> tuple[Window, ...]:
    return windows_of(x, kernel_size, stride, padding, dilation, ceil_mode)


def average_pool_windows(
    x: Value,
    kernel_size: Numbers,
    stride: Numbers = (),
    padding: Numbers = (0,),
    ceil_mode: bool = False,
    *_: object,
) -> tuple[Window, ...]:
    return windows_of(x, kernel_size, stride, padding, (1,), ceil_mode)


def convolution(
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
) -> Value:
    """Return a convolution's output; each of its channels sees all input channels of its group."""
    if transposed:
        return _transposed(x, weight, stride, padding, dilation, output_padding, groups)
    windows = convolution_windows(x, weight, bias, stride, padding, dilation)
    axes = x.axes or len(windows)
    return slid(x.swept([1]), windows).with_dim(1, constant_dim(weight.shape[0], axes))


def locally_connected_windows(
    x: Value, _out_channels: int, taps: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers
) -> tuple[Window, ...]:
    return windows_of(x, taps, stride, padding, dilation)


def locally_connected(x: Value, out_channels: int, *window: Numbers) -> Value:
    """Return a locally connected layer's output, which has the sizes and fields of a convolution's."""
    windows = locally_connected_windows(x, out_channels, *window)
    return slid(x.swept([1]), windows).with_dim(1, constant_dim(out_channels, x.axes))


def max_pool(x: Value, *arguments: object) -> tuple[Value, Value]:
    value = slid(x, max_pool_windows(x, *arguments))  # type: ignore[arg-type]
    return value, value


def max_pool_1d(x: Value, *arguments: object) -> Value:
    return max_pool(x, *arguments)[0]


def average_pool(x: Value, *arguments: object) -> Value:
    return slid(x, average_pool_windows(x, *arguments))  # type: ignore[arg-type]


def slid(value: Value, windows: Sequence[Window]) -> Value:
    """Return the value after windows have slid along its last dimensions."""
    first = value.rank - len(windows)
    for offset, window in enumerate(windows):
        value = _slid_along(value, first + offset, window)
    return value


def _slid_along(value: Value, index: int, window: Window) -> Value:
    value = _as_one_factor(value, index)
    factor = next(iter(value.dims[index]), Factor(1, (0,) * value.axes))
    spans = [_widened(span, step, window) for span, step in zip(value.spans, factor.steps, strict=False)]
    steps = _scaled(factor.steps, window.stride)
    return Value(value.dims, tuple(spans)).with_dim(index, linear_dim(window.size, steps))


def _widened(span: Span, step: Step, window: Window) -> Span:
    """Return the span of one window over rows that are `step` pixels apart.

    Padding adds no pixels, so the limits stay. With dilation and padding, the last tap inside the image may lie before
    the image's edge, so the span is only a bound.
    """
    if not step:
        return span
    last = span.start + step * (window.rows - 1)
    return Span(
        start=span.start - step * window.padding + min(0, step * (window.extent - 1)),
        size=span.size + max(step, -step) * (window.extent - 1),
        low=max(span.low, min(span.start, last)),
        high=min(span.high, max(span.start, last) + span.size - 1),
        bound=span.bound or (window.dilation > 1 and window.padding > 0),
    )


def _as_one_factor(value: Value, index: int) -> Value:
    """Return the value with at most one factor in dimension `index`, as a window requires.

    Rows repeated by nearest-neighbour upsampling become one run with a fractional step.
    """
    dim = value.dims[index]
    if len(dim) < 2:
        return value
    outer, *inner = dim
    if any(factor.moves for factor in inner) or None in outer.steps:
        return value.loosened(index, size_of(dim))
    return stretched(value.with_dim(index, (outer,)), index, size_of(dim), before=0, after=0)


def stretched(value: Value, index: int, size: int, before: int, after: int) -> Value:
    """Resize dimension `index` from n to m: row i sees rows floor(i n / m) - before to floor(i n / m) + after.

    The spans are rounded outwards because of the floor, so they are bounds.
    """
    rows = value.shape[index]
    value = _as_one_factor(value, index)
    ratio = Fraction(rows, size)
    factor = next(iter(value.dims[index]), Factor(1, (0,) * value.axes))
    spans = [
        _stretched_span(span, step, ratio, before, after) for span, step in zip(value.spans, factor.steps, strict=False)
    ]
    steps = _scaled(factor.steps, ratio)
    return Value(value.dims, tuple(spans)).with_dim(index, linear_dim(size, steps))


def _stretched_span(span: Span, step: Step, ratio: Fraction, before: int, after: int) -> Span:
    if not step:
        return span
    slack = 1 - Fraction(1, ratio.denominator)  # the most by which i n / m exceeds its floor
    start, size = span.start - step * (before + slack), span.size + step * (before + after + slack)
    return Span(start, size, span.low, span.high, bound=True)


def _transposed(
    x: Value, weight: Value, stride: Numbers, padding: Numbers, dilation: Numbers, output_padding: Numbers, groups: int
) -> Value:
    axes = len(weight.shape) - 2
    arguments = (weight.shape[2:], stride, padding, dilation, output_padding)
    value = x.swept([1]).with_dim(1, constant_dim(weight.shape[1] * groups, x.axes or axes))
    per_axis = zip(*(_per_axis(numbers, axes) for numbers in arguments), strict=True)
    for index, (taps, step, pad, gap, extra) in enumerate(per_axis, start=2):
        size = transposed_size(value.shape[index], taps, step, pad, gap, extra)
        value = _transposed_along(value, index, size, reach=gap * (taps - 1), stride=step, padding=pad)
    return value


def _transposed_along(value: Value, index: int, size: int, reach: int, stride: int, padding: int) -> Value:
    """Apply a transposed convolution along one dimension: row o sees the rows j with 0 <= o + P - jS <= D(F-1)."""
    value = _as_one_factor(value, index)
    factor = next(iter(value.dims[index]), Factor(1, (0,) * value.axes))
    if reach + 1 == stride and not padding and size == stride * value.shape[index]:
        return value.with_dim(index, (*value.dims[index], *linear_dim(stride, (0,) * value.axes)))
    spans = []
    for span, step in zip(value.spans, factor.steps, strict=False):
        new_step = Fraction(step or 0, stride)
        start, size_added = span.start + new_step * (padding - reach), new_step * reach
        bound = span.bound or (new_step > 0 and stride > 1)
        spans.append(Span(start, span.size + size_added, span.low, span.high, bound))
    steps = _scaled(factor.steps, Fraction(1, stride))
    return Value(value.dims, tuple(spans)).with_dim(index, linear_dim(size, steps))


def adaptive_pool(x: Value, output_size: Numbers) -> Value:
    """Pool n rows to m: row i sees rows floor(i n / m) up to, but excluding, ceil((i + 1) n / m)."""
    for offset, size in enumerate(output_size):
        index = x.rank - len(output_size) + offset
        rows = x.shape[index]
        if rows % size == 0:
            x = _slid_along(x, index, Window(rows, rows // size, rows // size))
        else:
            x = stretched(x, index, size, before=0, after=-(-rows // size))
    return x


def adaptive_max_pool(x: Value, output_size: Numbers) -> tuple[Value, Value]:
    value = adaptive_pool(x, output_size)
    return value, value


def im2col(x: Value, kernel_size: Numbers, dilation: Numbers, padding: Numbers, stride: Numbers) -> Value:
    """Return patches, (N, C, H, W) to (N, C * taps, positions): each unit is one tap and sees what its row sees."""
    windows = windows_of(x, kernel_size, stride, padding, dilation)
    taps: list[Factor] = []
    positions: list[Factor] = []
    for index, window in enumerate(windows, start=2):
        x = _as_one_factor(x, index)
        factor = next(iter(x.dims[index]), Factor(1, (0,) * x.axes))
        spans = tuple(_tap_span(span, step, window) for span, step in zip(x.spans, factor.steps, strict=False))
        x = Value(x.dims, spans)
        taps += linear_dim(window.taps, _scaled(factor.steps, window.dilation))
        positions += linear_dim(window.size, _scaled(factor.steps, window.stride))
    return x.with_dims((x.dims[0], (*x.dims[1], *taps), tuple(positions)))


def _tap_span(span: Span, step: Step, window: Window) -> Span:
    window_span = _widened(span, step, window)
    return Span(window_span.start, span.size, window_span.low, window_span.high, span.bound)


def unfolded(x: Value, dimension: int, size: int, step: int) -> Value:
    """Return Tensor.unfold: windows along one dimension, with their taps in a new last dimension."""
    dimension %= x.rank
    x = _as_one_factor(x, dimension)
    factor = next(iter(x.dims[dimension]), Factor(1, (0,) * x.axes))
    count = Window(x.shape[dimension], size, step).size
    value = x.with_dim(dimension, linear_dim(count, _scaled(factor.steps, step)))
    return value.with_dims((*value.dims, linear_dim(size, factor.steps)))


def col2im(x: Value, output_size: Numbers, kernel_size: Numbers, *_: object) -> Value:
    """Return the sum, at every pixel, over the patches that contain it."""
    axes, taps = x.axes, math.prod(kernel_size)
    swept = x.swept([1, 2])
    moved = tuple(any(factor.steps[axis] != 0 for dim in x.dims[1:] for factor in dim) for axis in range(axes))
    steps: tuple[Step, ...] = tuple(None if moves else 0 for moves in moved)
    dims = (x.dims[0], constant_dim(x.shape[1] // taps, axes), *(linear_dim(size, steps) for size in output_size))
    return swept.with_dims(dims)


def padded(x: Value, pad: Numbers, *_: object) -> Value:
    """Return constant padding by `pad`, (before, after) from the last dimension backwards; negative numbers crop."""
    margins = [0] * x.rank
    for offset in range(len(pad) // 2):
        index, before, after = x.rank - 1 - offset, pad[2 * offset], pad[2 * offset + 1]
        x = shifted(x, index, before, x.shape[index] + before + after)
        margins[index] = max(0, after)
    return Value(x.dims, x.spans, tuple(margins))


def padded_from_image(x: Value, pad: Numbers, *_: object) -> Value:
    """Return reflection or replication padding, whose border repeats pixels of the image."""
    return padded(x, pad)


def shifted(x: Value, index: int, before: int, size: int, stride: int = 1) -> Value:
    """Return `size` rows of dimension `index`, every `stride`-th, starting `before` rows before its first."""
    index %= x.rank
    if before == 0 and size == x.shape[index] and stride == 1:
        return x
    x = _as_one_factor(x, index)
    factor = next(iter(x.dims[index]), Factor(1, (0,) * x.axes))
    spans = [
        _shifted_span(span, step, x.shape[index], before, size, stride)
        for span, step in zip(x.spans, factor.steps, strict=False)
    ]
    steps = _scaled(factor.steps, stride)
    return Value(x.dims, tuple(spans)).with_dim(index, linear_dim(size, steps))


def _shifted_span(span: Span, step: Step, rows: int, before: int, size: int, stride: int) -> Span:
    if not step:
        return span
    first, last = max(0, -before), min(rows - 1, -before + (size - 1) * stride)
    starts = [span.start + step * first, span.start + step * last]
    low, high = max(span.low, min(starts)), min(span.high, max(starts) + span.size - 1)
    return Span(span.start - step * before, span.size, low, high, span.bound)


class Resize:
    """Interpolation: an output row sees `before` rows before, and `after` rows after, the input row it falls on."""

    def __init__(self, before: int, after: int) -> None:
        self.before, self.after = before, after

    def __call__(self, x: Value, output_size: Numbers, *_: object) -> Value:
        for offset, size in enumerate(output_size):
            index = x.rank - len(output_size) + offset
            rows = x.shape[index]
            if not self.before and size % rows == 0:
                x = x.with_dim(index, (*x.dims[index], *linear_dim(size // rows, (0,) * x.axes)))
            elif size != rows:
                x = stretched(x, index, size, self.before, self.after)
        return x


def _per_axis(numbers: Numbers, axes: int) -> tuple[int, ...]:
    return tuple(numbers) * axes if len(numbers) == 1 else tuple(numbers)


def _scaled(steps: tuple[Step, ...], by: Number) -> tuple[Step, ...]:
    return tuple(None if step is None else step * by for step in steps)
