"""Comparison of networks, and of fully connected, locally connected and convolutional layers of one output volume."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import SettingsError
from zoo.geometry.costs import convolution_weights, fully_connected_weights, locally_connected_weights
from zoo.geometry.measure import Geometry
from zoo.geometry.sizes import Window
from zoo.inspect.describe import field_text, fit, megabytes, short
from zoo.inspect.tables import Column, print_table
from zoo.inspect.target import InspectionTarget, size_text
from zoo.layers import resolve_padding

ComparisonRow = dict[str, Any]

HEADINGS = {  # of the keys that are not their own heading
    "activation_bytes": "activations",
    "bytes_at_once": "peak",
    "receptive_field": "field",
    "strides_exact": "exact",
    "drop_padding": "pad",
    "drop_rows": "drop",
}
LAYER_IMPORTANCE = ("layer", "parameters", "MACs", "output", "weights", "input", "biases")
NETWORK_IMPORTANCE = (
    *("network", "parameters", "MACs", "input", "field", "activations"),
    *("peak", "layers", "drop", "pad", "exact"),
)


@dataclass(frozen=True)
class LayerSpec:
    """The layer that `compare --layers` builds in three ways.

    Attributes:
        input_size: (C, *axes).
        to: output channels.
        kernel: taps of the window along each axis.
        stride: of the window along each axis.
        padding: `same`, `valid` or a number of rows.
    """

    input_size: tuple[int, ...]
    to: int
    kernel: int
    stride: int = 1
    padding: str = "same"

    def __post_init__(self) -> None:
        """Check the windows.

        Raises:
            SettingsError: a window does not fit, or its stride drops rows of the input.
        """
        for window in self.windows:
            if not window.fits:
                raise SettingsError(f"a window of {self.kernel} does not fit on {window.rows} rows: choose a --kernel")
            if window.lost:
                nearby = range(window.rows - self.stride, window.rows + self.stride)
                sizes = ", ".join(str(rows) for rows in nearby if self._is_exact(rows))
                raise SettingsError(
                    f"stride {self.stride} drops the last {window.lost} of {window.rows} rows; these sizes fit: {sizes}"
                )

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(self._window(rows) for rows in self.input_size[1:])

    @property
    def output_size(self) -> tuple[int, ...]:
        return (self.to, *(window.size for window in self.windows))

    def _window(self, rows: int) -> Window:
        padding = int(self.padding) if self.padding.isdecimal() else self.padding
        return Window(rows, self.kernel, self.stride, resolve_padding(padding, self.kernel, self.stride))  # type: ignore[arg-type]

    def _is_exact(self, rows: int) -> bool:
        window = self._window(rows)
        return rows > 0 and window.fits and not window.lost


def layer_rows(spec: LayerSpec) -> list[ComparisonRow]:
    """Return one row for each of three ways to connect the same input to the same output.

    A fully connected layer has a weight for each pair of input and output numbers. A locally connected one has only
    the weights of each window. A convolution shares one filter between all positions, which saves parameters but no
    MACs.
    """
    channels, positions = spec.input_size[0], math.prod(spec.output_size[1:])
    inputs, outputs = math.prod(spec.input_size), math.prod(spec.output_size)
    taps = spec.kernel ** len(spec.windows)
    full = fully_connected_weights(inputs, outputs)
    local = locally_connected_weights(channels, spec.to, taps, positions)
    shared = convolution_weights(channels, spec.to, taps)
    return [
        _layer_row(spec, "fully connected", full, biases=outputs, macs=full),
        _layer_row(spec, "locally connected", local, biases=outputs, macs=local),
        _layer_row(spec, "convolutional", shared, biases=spec.to, macs=shared * positions),
    ]


def network_rows(targets: Iterable[InspectionTarget]) -> list[ComparisonRow]:
    """Return one row per network, each at its default input size."""
    return [_network_row(target, target.geometry()) for target in targets]


def show(rows: Sequence[ComparisonRow]) -> None:
    """Print the rows as a table."""
    columns = [
        Column(HEADINGS.get(key, key), [_cell(key, row[key]) for row in rows], "right" if index else "left")
        for index, key in enumerate(rows[0])
    ]
    print_table(columns, NETWORK_IMPORTANCE if "network" in rows[0] else LAYER_IMPORTANCE)


def _layer_row(spec: LayerSpec, layer: str, weights: int, biases: int, macs: int) -> ComparisonRow:
    return {
        "layer": layer,
        "input": size_text(spec.input_size),
        "output": size_text(spec.output_size),
        "weights": weights,
        "biases": biases,
        "parameters": weights + biases,
        "MACs": macs,
    }


def _network_row(target: InspectionTarget, geometry: Geometry) -> ComparisonRow:
    strides = Counter(fit(layer).split(" ")[0] for layer in geometry.sliding)
    last = geometry.last_map
    return {
        "network": target.name,
        "input": size_text(geometry.input_size),
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


def _cell(key: str, value: object) -> str:
    if not isinstance(value, int):
        return str(value)
    if "bytes" in key:
        return megabytes(value)
    return short(value) if key == "MACs" and value >= 10**8 else f"{value:,}"
