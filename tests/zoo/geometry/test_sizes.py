"""Sliding-window arithmetic, compared with PyTorch and with the definition."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from zoo.geometry.sizes import Window, transposed_size

WINDOWS = st.builds(
    Window,
    rows=st.integers(1, 40),
    taps=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)


@given(WINDOWS)
def test_size_matches_pytorch(window):
    """The size is (N + 2P - D(F-1) - 1) / S + 1, rounded down."""
    assume(window.fits)
    x, weight = torch.zeros(1, 1, window.rows), torch.zeros(1, 1, window.taps)
    expected = F.conv1d(x, weight, stride=window.stride, padding=window.padding, dilation=window.dilation)
    assert window.size == expected.shape[-1]


@given(WINDOWS)
def test_unused_rows_are_those_after_the_last_window(window):
    """`unused` counts the rows after the last tap; `lost` counts those that belong to the input."""
    assume(window.fits)
    padded = window.rows + 2 * window.padding
    covered = max(position * window.stride + window.extent for position in range(window.size))
    input_rows = range(window.padding, window.padding + window.rows)
    assert window.unused == padded - covered
    assert window.lost == sum(row in input_rows for row in range(covered, padded))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2))
def test_ceil_mode_matches_pytorch(rows, taps, stride, padding):
    """In ceil mode the last window may reach past the end, but not start after it."""
    window = Window(rows, taps, stride, padding, ceil_mode=True)
    assume(window.fits and 2 * padding <= taps)
    expected = F.max_pool1d(torch.zeros(1, 1, rows), taps, stride, padding, ceil_mode=True)
    assert window.size == expected.shape[-1]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2))
def test_missing_rows_make_up_for_ceil_mode(rows, taps, stride, padding):
    """With the missing rows as further padding, rounding down gives the size of ceil mode."""
    window = Window(rows, taps, stride, padding, ceil_mode=True)
    assume(window.fits and 2 * padding <= taps)
    assert window.size == Window(rows + 2 * padding + window.missing, taps, stride).size


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 2))
def test_transposed_size_matches_pytorch(rows, taps, stride, padding, dilation):
    """The size is (N-1)S - 2P + D(F-1) + 1 + output padding."""
    size = transposed_size(rows, taps, stride, padding, dilation, output_padding=0)
    assume(size > 0)
    x, weight = torch.zeros(1, 1, rows), torch.zeros(1, 1, taps)
    output = F.conv_transpose1d(x, weight, stride=stride, padding=padding, dilation=dilation)
    assert size == output.shape[-1]


@pytest.mark.parametrize(
    ("window", "unused", "lost"),
    [
        (Window(rows=225, taps=7, stride=2, padding=3), 0, 0),
        (Window(rows=224, taps=7, stride=2, padding=3), 1, 0),
        (Window(rows=56, taps=1, stride=2), 1, 1),
        (Window(rows=7, taps=2, stride=2), 1, 1),
        (Window(rows=10, taps=3, stride=2, margin=1), 1, 0),
        (Window(rows=7, taps=2, stride=2, ceil_mode=True), 0, 0),
    ],
)
def test_unused_and_lost_rows(window, unused, lost):
    """A stride is exact, skips padding or drops input rows; padding added by an earlier layer counts as padding."""
    assert (window.unused, window.lost) == (unused, lost)
