"""Networks side by side; and a layer fully connected, locally connected and convolutional, of one output volume."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from zoo.errors import SettingsError
from zoo.geometry.costs import convolution_weights, fully_connected_weights, locally_connected_weights
from zoo.geometry.measure import Geometry
from zoo.geometry.sizes import Window
from zoo.inspect.describe import field_text, fit, megabytes, roomy_console, short
from zoo.inspect.target import Subject, by
from zoo.layers import resolve_padding

Row = dict[str, Any]

_HEADS = {
    "activation_bytes": "activations",
    "bytes_at_once": "at once",
    "receptive_field": "sees",
    "strides_exact": "exact",
    "drop_padding": "pad",
    "drop_rows": "drop",
}


@dataclass(frozen=True)
class LayerQuestion:
    """A layer from `input_size`, (C, *axes), to `to` channels, with windows of `kernel` taps along each axis.

    `padding` is `same`, `valid` or a number of rows.
    """

    input_size: tuple[int, ...]
    to: int
    kernel: int
    stride: int = 1
    padding: str = "same"

    def __post_init__(self) -> None:
        """Raises: SettingsError: a window does not fit, or its stride leaves out rows of the input."""
        for window in self.windows:
            if not window.fits:
                raise SettingsError(f"a window of {self.kernel} does not fit on {window.rows} rows: choose a --kernel")
            if window.lost:
                near = [
                    rows for rows in range(window.rows - self.stride, window.rows + self.stride) if self._fits(rows)
                ]
                raise SettingsError(
                    f"strides of {self.stride} leave out the last {window.lost} of {window.rows} rows; "
                    f"these sizes fit: {', '.join(map(str, near))}"
                )

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(self._window(rows) for rows in self.input_size[1:])

    @property
    def output_size(self) -> tuple[int, ...]:
        return (self.to, *(window.size for window in self.windows))

    def _window(self, rows: int) -> Window:
        named = self.padding if not self.padding.isdecimal() else int(self.padding)
        return Window(rows, self.kernel, self.stride, resolve_padding(named, self.kernel, self.stride))  # type: ignore[arg-type]

    def _fits(self, rows: int) -> bool:
        window = self._window(rows)
        return rows > 0 and window.fits and not window.lost


def layer_rows(question: LayerQuestion) -> list[Row]:
    """Three ways to connect the same input to the same output.

    Every output number of the fully connected layer has a weight for each input number. Looking only at neighbours
    leaves it those under its window; sharing leaves one filter for all places. Sharing saves no work: each place
    still takes its whole window.
    """
    channels, places = question.input_size[0], math.prod(question.output_size[1:])
    inputs, outputs = math.prod(question.input_size), math.prod(question.output_size)
    taps = question.kernel ** len(question.windows)
    full = fully_connected_weights(inputs, outputs)
    local = locally_connected_weights(channels, question.to, taps, places)
    shared = convolution_weights(channels, question.to, taps)
    return [
        _layer_row(question, "fully connected", full, biases=outputs, macs=full),
        _layer_row(question, "locally connected", local, biases=outputs, macs=local),
        _layer_row(question, "convolutional", shared, biases=question.to, macs=shared * places),
    ]


def net_rows(subjects: Iterable[Subject]) -> list[Row]:
    """One row a network, each at the input that it is made for."""
    return [_net_row(subject, subject.geometry()) for subject in subjects]


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, name in enumerate(rows[0]):
        table.add_column(_HEADS.get(name, name), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(name, value) for name, value in row.items()))
    roomy_console().print(table)


def _layer_row(question: LayerQuestion, layer: str, weights: int, biases: int, macs: int) -> Row:
    return {
        "layer": layer,
        "input": by(question.input_size),
        "output": by(question.output_size),
        "weights": weights,
        "biases": biases,
        "parameters": weights + biases,
        "MACs": macs,
    }


def _net_row(subject: Subject, geometry: Geometry) -> Row:
    strides = Counter(fit(layer).split(" ")[0] for layer in geometry.sliding)
    last = geometry.last_map
    return {
        "network": subject.name,
        "input": by(geometry.input_size),
        "layers": sum(layer.is_leaf and layer.parameters > 0 for layer in geometry.layers),
        "parameters": geometry.parameters,
        "MACs": geometry.macs,
        "activation_bytes": geometry.memory_bytes,
        "bytes_at_once": geometry.peak_bytes,
        "receptive_field": field_text(last.fields) if last else "all",
        "strides_exact": strides["exact"],
        "drop_padding": strides["pad"],
        "drop_rows": strides["drops"],
    }


def _text(name: str, value: object) -> str:
    if not isinstance(value, int):
        return str(value)
    if "bytes" in name:
        return megabytes(value)
    return f"{value:,}" if value < 10**8 or name != "MACs" else short(value)
