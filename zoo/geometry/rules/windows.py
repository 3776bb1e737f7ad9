"""Operations that look through a window: convolutions, pools, patches, padding, resizing."""

import math
from collections.abc import Sequence
from fractions import Fraction

from zoo.geometry.sizes import Window, transposed_size
from zoo.geometry.values import Dim, Factor, Span, Step, Value, plain, run, size_of

Numbers = Sequence[int]


def windows_of(
    value: Value, taps: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers = (1,), ceil_mode: bool = False
) -> tuple[Window, ...]:
    """The windows along the last dimensions of `value`, as many as `taps`."""
    axes = len(taps)
    shape, margins = value.shape[-axes:], (value.margins or (0,) * value.rank)[-axes:]
    given = (_spread(numbers, axes) for numbers in (stride or taps, padding, dilation))
    return tuple(
        Window(rows, tap, step, pad, gap, ceil_mode, margin)
        for rows, tap, step, pad, gap, margin in zip(shape, taps, *given, margins, strict=True)
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
    """All channels of a group meet: what is seen does not depend on the output's channel."""
    if transposed:
        return _transposed(x, weight, stride, padding, dilation, output_padding, groups)
    windows = convolution_windows(x, weight, bias, stride, padding, dilation)
    axes = x.axes or len(windows)
    return slid(x.swept([1]), windows).with_dim(1, plain(weight.shape[0], axes))


def local_windows(
    x: Value, _out_channels: int, taps: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers
) -> tuple[Window, ...]:
    return windows_of(x, taps, stride, padding, dilation)


def locally_connected(x: Value, out_channels: int, *window: Numbers) -> Value:
    """As a convolution, only that no weight is shared."""
    return slid(x.swept([1]), local_windows(x, out_channels, *window)).with_dim(1, plain(out_channels, x.axes))


def max_pool(x: Value, *arguments: object) -> tuple[Value, Value]:
    found = slid(x, max_pool_windows(x, *arguments))  # type: ignore[arg-type]
    return found, found


def max_pool_alone(x: Value, *arguments: object) -> Value:
    return max_pool(x, *arguments)[0]


def average_pool(x: Value, *arguments: object) -> Value:
    return slid(x, average_pool_windows(x, *arguments))  # type: ignore[arg-type]


def slid(value: Value, windows: Sequence[Window]) -> Value:
    """The value after windows slid along its last dimensions."""
    first = value.rank - len(windows)
    for offset, window in enumerate(windows):
        value = _slid_along(value, first + offset, window)
    return value


def _slid_along(value: Value, index: int, window: Window) -> Value:
    value = _as_one_factor(value, index)
    factor = next(iter(value.dims[index]), Factor(1, (0,) * value.axes))
    spans = [_widened(span, step, window) for span, step in zip(value.spans, factor.steps, strict=False)]
    steps = tuple(None if step is None else step * window.stride for step in factor.steps)
    return Value(value.dims, tuple(spans)).with_dim(index, run(window.size, steps))


def _widened(span: Span, step: Step, window: Window) -> Span:
    """What one window sees where its rows lie `step` pixels apart; padding shows nothing, so the limits stay.

    Dilated and at the border, the last tap inside the image may lie before its edge: there the span is a bound. A
    tensor free of the image has no spans.
    """
    if not step:
        return span
    last = span.start + step * (window.rows - 1)
    return Span(
        start=span.start - step * window.padding + min(0, step * (window.reach - 1)),
        size=span.size + max(step, -step) * (window.reach - 1),
        low=max(span.low, min(span.start, last)),
        high=min(span.high, max(span.start, last) + span.size - 1),
        bound=span.bound or (window.dilation > 1 and window.padding > 0),
    )


def _as_one_factor(value: Value, index: int) -> Value:
    """A window needs one straight run of rows: rows repeated by nearest-neighbour resizing become a slower run."""
    dim = value.dims[index]
    if len(dim) < 2:
        return value
    outer, *inner = dim
    if any(factor.moves for factor in inner) or None in outer.steps:
        return value.loosened(index, size_of(dim))
    return stretched(value.with_dim(index, (outer,)), index, size_of(dim), before=0, after=0)


def stretched(value: Value, index: int, size: int, before: int, after: int) -> Value:
    """Dimension `index` resized: row i sees the rows from floor(i n / m) - before to floor(i n / m) + after.

    The floor is taken outwards, so the spans become bounds.
    """
    rows = value.shape[index]
    value = _as_one_factor(value, index)
    ratio = Fraction(rows, size)
    factor = next(iter(value.dims[index]), Factor(1, (0,) * value.axes))
    spans = [
        _stretched_span(span, step, ratio, before, after) for span, step in zip(value.spans, factor.steps, strict=False)
    ]
    steps = tuple(None if step is None else step * ratio for step in factor.steps)
    return Value(value.dims, tuple(spans)).with_dim(index, run(size, steps))


def _stretched_span(span: Span, step: Step, ratio: Fraction, before: int, after: int) -> Span:
    if not step:
        return span
    slack = 1 - Fraction(1, ratio.denominator)  # i n / m is at most this much above its floor
    start, size = span.start - step * (before + slack), span.size + step * (before + after + slack)
    return Span(start, size, span.low, span.high, bound=True)


def _transposed(
    x: Value, weight: Value, stride: Numbers, padding: Numbers, dilation: Numbers, output_padding: Numbers, groups: int
) -> Value:
    axes = len(weight.shape) - 2
    given = zip(
        *(_spread(numbers, axes) for numbers in (weight.shape[2:], stride, padding, dilation, output_padding)),
        strict=True,
    )
    value = x.swept([1]).with_dim(1, plain(weight.shape[1] * groups, x.axes or axes))
    for index, (taps, step, pad, gap, extra) in enumerate(given, start=2):
        size = transposed_size(value.shape[index], taps, step, pad, gap, extra)
        value = _spread_along(value, index, size, reach=gap * (taps - 1), stride=step, padding=pad)
    return value


def _spread_along(value: Value, index: int, size: int, reach: int, stride: int, padding: int) -> Value:
    """Row o of a transposed convolution sees the rows j with 0 <= o + P - jS <= D(F-1)."""
    value = _as_one_factor(value, index)
    factor = next(iter(value.dims[index]), Factor(1, (0,) * value.axes))
    if reach + 1 == stride and not padding and size == stride * value.shape[index]:
        return value.with_dim(index, (*value.dims[index], *run(stride, (0,) * value.axes)))
    spans = []
    for span, step in zip(value.spans, factor.steps, strict=False):
        pace = Fraction(step or 0, stride)
        start, more = span.start + pace * (padding - reach), pace * reach
        spans.append(Span(start, span.size + more, span.low, span.high, span.bound or (pace > 0 and stride > 1)))
    steps = tuple(None if step is None else Fraction(step, stride) for step in factor.steps)
    return Value(value.dims, tuple(spans)).with_dim(index, run(size, steps))


def adaptive_pool(x: Value, output_size: Numbers) -> Value:
    """Row i of m sees the rows from floor(i n / m) up to before ceil((i + 1) n / m)."""
    for offset, size in enumerate(output_size):
        index = x.rank - len(output_size) + offset
        rows = x.shape[index]
        if rows % size == 0:
            x = _slid_along(x, index, Window(rows, rows // size, rows // size))
        else:
            x = stretched(x, index, size, before=0, after=-(-rows // size))
    return x


def adaptive_max_pool(x: Value, output_size: Numbers) -> tuple[Value, Value]:
    found = adaptive_pool(x, output_size)
    return found, found


def patches(x: Value, kernel_size: Numbers, dilation: Numbers, padding: Numbers, stride: Numbers) -> Value:
    """Im2col: (N, C, H, W) to (N, C * taps, positions); each unit is one tap, and sees what its row saw."""
    windows = windows_of(x, kernel_size, stride, padding, dilation)
    taps: list[Dim] = []
    places: list[Dim] = []
    for index, window in enumerate(windows, start=2):
        x = _as_one_factor(x, index)
        factor = next(iter(x.dims[index]), Factor(1, (0,) * x.axes))
        spans = tuple(_tap_span(span, step, window) for span, step in zip(x.spans, factor.steps, strict=False))
        x = Value(x.dims, spans)
        taps.append(run(window.taps, tuple(s if s is None else s * window.dilation for s in factor.steps)))
        places.append(run(window.size, tuple(s if s is None else s * window.stride for s in factor.steps)))
    channels = (*x.dims[1], *(factor for dim in taps for factor in dim))
    return x.with_dims((x.dims[0], channels, tuple(factor for dim in places for factor in dim)))


def _tap_span(span: Span, step: Step, window: Window) -> Span:
    wide = _widened(span, step, window)
    return Span(wide.start, span.size, wide.low, wide.high, span.bound)


def unfolded(x: Value, dimension: int, size: int, step: int) -> Value:
    """Tensor.unfold: windows along one dimension, their taps in a new last one."""
    dimension %= x.rank
    x = _as_one_factor(x, dimension)
    factor = next(iter(x.dims[dimension]), Factor(1, (0,) * x.axes))
    count = Window(x.shape[dimension], size, step).size
    places = run(count, tuple(None if s is None else s * step for s in factor.steps))
    value = x.with_dim(dimension, places)
    return value.with_dims((*value.dims, run(size, factor.steps)))


def folded(x: Value, output_size: Numbers, kernel_size: Numbers, *_: object) -> Value:
    """Col2im: every pixel is a sum over the patches that hold it."""
    axes, taps = x.axes, math.prod(kernel_size)
    swept = x.swept([1, 2])
    moved = tuple(any(f.steps[axis] != 0 for dim in x.dims[1:] for f in dim) for axis in range(axes))
    steps: tuple[Step, ...] = tuple(None if moves else 0 for moves in moved)
    dims = (x.dims[0], plain(x.shape[1] // taps, axes), *(run(size, steps) for size in output_size))
    return swept.with_dims(dims)


def padded(x: Value, pad: Numbers, *_: object) -> Value:
    """Constant padding, (before, after) from the last dimension backwards; negative numbers crop."""
    margins = [0] * x.rank
    for offset in range(len(pad) // 2):
        index, before, after = x.rank - 1 - offset, pad[2 * offset], pad[2 * offset + 1]
        x = shifted(x, index, before, x.shape[index] + before + after)
        margins[index] = max(0, after)
    return Value(x.dims, x.spans, tuple(margins))


def mirrored(x: Value, pad: Numbers, *_: object) -> Value:
    """Reflection or replication: the border repeats rows of the image, which a window there sees instead."""
    return padded(x, pad)


def shifted(x: Value, index: int, before: int, size: int, stride: int = 1) -> Value:
    """Dimension `index` seen from `before` rows earlier, `size` rows in all, every `stride`-th."""
    index %= x.rank
    if before == 0 and size == x.shape[index] and stride == 1:
        return x
    x = _as_one_factor(x, index)
    factor = next(iter(x.dims[index]), Factor(1, (0,) * x.axes))
    spans = [
        _shifted_span(span, step, x.shape[index], before, size, stride)
        for span, step in zip(x.spans, factor.steps, strict=False)
    ]
    steps = tuple(None if step is None else step * stride for step in factor.steps)
    return Value(x.dims, tuple(spans)).with_dim(index, run(size, steps))


def _shifted_span(span: Span, step: Step, rows: int, before: int, size: int, stride: int) -> Span:
    if not step:
        return span
    first, last = max(0, -before), min(rows - 1, -before + (size - 1) * stride)
    seen = [span.start + step * first, span.start + step * last]
    low, high = max(span.low, min(seen)), min(span.high, max(seen) + span.size - 1)
    return Span(span.start - step * before, span.size, low, high, span.bound)


class Resize:
    """Interpolation to `output_size`: a row sees `before` rows before and `after` after the one it falls on."""

    def __init__(self, before: int, after: int) -> None:
        self.before, self.after = before, after

    def __call__(self, x: Value, output_size: Numbers, *_: object) -> Value:
        for offset, size in enumerate(output_size):
            index = x.rank - len(output_size) + offset
            rows = x.shape[index]
            if not self.before and size % rows == 0:
                x = x.with_dim(index, (*x.dims[index], *run(size // rows, (0,) * x.axes)))
            elif size != rows:
                x = stretched(x, index, size, self.before, self.after)
        return x


def _spread(numbers: Numbers, axes: int) -> tuple[int, ...]:
    return tuple(numbers) * axes if len(numbers) == 1 else tuple(numbers)
