"""Rewrites pools whose size ONNX and PyTorch count differently.

With ceil_mode, PyTorch drops a last window that would start in the padding after the input; ONNX's shape inference, and
some runtimes, count it. Rounding down gives PyTorch's number along that axis. Along the other axes, padding at the end
takes the place of the rows that a last window lacks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.convert.passes.graph_pass import Conversion
from export.errors import ConversionError
from export.onnx_model.scopes import module_scopes
from zoo.geometry.sizes import Window

POOLS = ("MaxPool", "AveragePool")
REWRITTEN = ("ceil_mode", "pads", "count_include_pad")


@dataclass(frozen=True)
class _Pool:
    """A pool with ceil_mode, with one window per axis; a window over 0 rows is over an axis of dynamic size."""

    node: onnx.NodeProto
    windows: Sequence[Window]

    @property
    def is_dynamic(self) -> bool:
        return not all(window.rows for window in self.windows)

    @property
    def may_drop_a_window(self) -> bool:
        """Whether a last window starts in the padding after an input of some size."""
        return any(window.stride > 1 and window.stride + window.padding > window.extent for window in self.windows)

    @property
    def drops_a_window(self) -> bool:
        return any(not window.missing and window.unused for window in self.windows)

    @property
    def counts_padding(self) -> bool:
        """Whether a mean is over the padding, too, but not over the rows that a last window lacks."""
        return bool(_attributes(self.node).get("count_include_pad")) and any(w.missing for w in self.windows)


def count_as_pytorch(model: onnx.ModelProto, _conversion: Conversion) -> None:
    """Replace ceil_mode of the pools in which PyTorch drops a window by padding at the end.

    Requires: the shapes that torch.onnx wrote.
    Ensures: each pool has PyTorch's output size by ONNX's own arithmetic. Raises: ConversionError for a pool of dynamic
    size in which PyTorch drops windows at some sizes only.
    """
    for pool in list(_pools(model.graph)):
        if pool.is_dynamic and pool.may_drop_a_window:
            raise ConversionError(_rejection(pool.node))
        if not pool.is_dynamic and pool.drops_a_window:
            _rewrite(model.graph, pool)


def _rejection(node: onnx.NodeProto) -> str:
    layer = (module_scopes(node) or ("",))[-1]
    return (
        f"the input's height and width cannot be dynamic: with ceil_mode, layer '{layer}' ({node.op_type}) drops its "
        "last window at some sizes, where ONNX counts it. Set ceil_mode=False, or export at a fixed size, without "
        "--dynamic-size."
    )


def _pools(graph: onnx.GraphProto) -> Iterator[_Pool]:
    infos = (*graph.input, *graph.value_info)
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}
    for node in graph.node:
        attributes = _attributes(node)
        if node.op_type not in POOLS or not attributes.get("ceil_mode"):
            continue
        taps = attributes["kernel_shape"]
        sizes = shapes[node.input[0]][-len(taps) :]
        yield _Pool(node, _windows(sizes, taps, attributes))


def _windows(sizes: Sequence[int], taps: Sequence[int], attributes: dict[str, Any]) -> list[Window]:
    ones = [1] * len(taps)
    names = ("strides", "pads", "dilations")
    strides, pads, dilations = (attributes.get(name, [0] * len(taps) if name == "pads" else ones) for name in names)
    return [Window(*window, ceil_mode=True) for window in zip(sizes, taps, strides, pads, dilations, strict=False)]


def _rewrite(graph: onnx.GraphProto, pool: _Pool) -> None:
    before, missing = [window.padding for window in pool.windows], [window.missing for window in pool.windows]
    padding, after = before, [pad + more for pad, more in zip(before, missing, strict=True)]
    counts_padding = bool(_attributes(pool.node).get("count_include_pad"))
    if pool.counts_padding:  # only an explicit Pad distinguishes the padding from the missing rows
        _pad_input(graph, pool.node, before)
        padding, after, counts_padding = [0] * len(before), missing, False
    kept = [attribute for attribute in pool.node.attribute if attribute.name not in REWRITTEN]
    del pool.node.attribute[:]
    pool.node.attribute.extend([*kept, helper.make_attribute("pads", [*padding, *after])])
    if counts_padding:
        pool.node.attribute.append(helper.make_attribute("count_include_pad", 1))


def _pad_input(graph: onnx.GraphProto, node: onnx.NodeProto, padding: Sequence[int]) -> None:
    pads, padded = f"{node.output[0]}/pads", f"{node.output[0]}/padded"
    each_side = np.array([0, 0, *padding] * 2, np.int64)
    graph.initializer.append(numpy_helper.from_array(each_side, pads))
    pad = helper.make_node("Pad", [node.input[0], pads], [padded], padded)
    pad.metadata_props.extend(node.metadata_props)
    graph.node.insert(list(graph.node).index(node), pad)
    node.input[0] = padded


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
