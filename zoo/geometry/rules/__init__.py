"""One rule per operation of PyTorch's core: the symbolic output for given symbolic inputs.

A rule is called with the operation's own arguments, with a `Value` in place of each tensor. It returns a `Value`, a
tuple of them for several outputs, or None if it cannot derive the output. An operation that is not in the table is
unknown, and so is everything computed from its output: nothing is guessed.
"""

from collections.abc import Callable
from typing import Any

from zoo.geometry.rules import mixing, shapes, windows
from zoo.geometry.sizes import Window
from zoo.geometry.values import Value

Rule = Callable[..., Any]

_POINTWISE = """
    abs add addcdiv addcmul bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max clamp_min copy cos div dropout
    elu eq erf exp exp2 expm1 floor ge gelu gt hardsigmoid hardswish hardtanh le leaky_relu lerp log log1p log_sigmoid
    log2 logical_and logical_not logical_or logit lt masked_fill maximum minimum mish mul ne neg pow prelu _prelu_kernel
    reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin softplus sqrt square sub tanh threshold
    true_divide trunc where xlogy
"""
_COPIES = "alias clone contiguous detach lift_fresh _to_copy to"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), mixing.pointwise),
    **dict.fromkeys(_COPIES.split(), shapes.same),
    **dict.fromkeys(("empty_like", "full_like", "ones_like", "zeros_like"), mixing.constant_like),
    **dict.fromkeys(("new_empty", "new_full", "new_ones", "new_zeros"), mixing.new_constant),
    "_adaptive_avg_pool2d": windows.adaptive_pool,
    "adaptive_avg_pool1d": windows.adaptive_pool,
    "adaptive_max_pool2d": windows.adaptive_max_pool,
    "addmm": mixing.matrix_product_with_bias,
    "amax": mixing.reduced,
    "amin": mixing.reduced,
    "as_strided": shapes.as_strided,
    "avg_pool1d": windows.average_pool,
    "avg_pool2d": windows.average_pool,
    "baddbmm": mixing.matrix_product_with_bias,
    "bmm": mixing.matrix_product,
    "cat": shapes.concatenated,
    "chunk": shapes.chunked,
    "col2im": windows.col2im,
    "constant_pad_nd": windows.padded,
    "convolution": windows.convolution,
    "cumsum": mixing.swept,
    "expand": shapes.expanded,
    "flip": shapes.flipped,
    "im2col": windows.im2col,
    "index": shapes.gathered,
    "index_select": shapes.index_selected,
    "linalg_vector_norm": mixing.vector_norm,
    "locally_connected": windows.locally_connected,  # not PyTorch's: graph.py records our own layer under this name
    "max": mixing.reduced_with_indices,
    "max_pool1d": windows.max_pool_1d,
    "max_pool2d_with_indices": windows.max_pool,
    "mean": mixing.reduced,
    "min": mixing.reduced_with_indices,
    "mm": mixing.matrix_product,
    "native_batch_norm": mixing.batch_norm,
    "native_group_norm": mixing.group_norm,
    "native_layer_norm": mixing.layer_norm,
    "permute": shapes.permuted,
    "reflection_pad1d": windows.padded_from_image,
    "reflection_pad2d": windows.padded_from_image,
    "repeat": shapes.repeated,
    "replication_pad1d": windows.padded_from_image,
    "replication_pad2d": windows.padded_from_image,
    "reshape": shapes.viewed,
    "roll": shapes.rolled,
    "select": shapes.selected,
    "slice": shapes.sliced,
    "_safe_softmax": mixing.swept,
    "_log_softmax": mixing.swept,
    "_softmax": mixing.swept,
    "split": shapes.split,
    "split_with_sizes": shapes.split_into,
    "squeeze": shapes.squeezed,
    "stack": shapes.stacked,
    "std": mixing.variance,
    "std_mean": mixing.variance_and_mean,
    "sum": mixing.reduced,
    "t": shapes.matrix_transposed,
    "transpose": shapes.transposed,
    "unbind": shapes.unbound,
    "unfold": windows.unfolded,
    "_unsafe_view": shapes.viewed,
    "unsafe_split": shapes.split,
    "unsqueeze": shapes.unsqueezed,
    "upsample_bicubic2d": windows.Resize(before=1, after=2),
    "upsample_bilinear2d": windows.Resize(before=1, after=1),
    "upsample_nearest1d": windows.Resize(before=0, after=0),
    "upsample_nearest2d": windows.Resize(before=0, after=0),
    "var": mixing.variance,
    "var_mean": mixing.variance_and_mean,
    "view": shapes.viewed,
}

# The windows of each operation whose stride may drop rows.
WINDOWS: dict[str, Callable[..., tuple[Window, ...]]] = {
    "avg_pool1d": windows.average_pool_windows,
    "avg_pool2d": windows.average_pool_windows,
    "convolution": windows.convolution_windows,
    "locally_connected": windows.locally_connected_windows,
    "max_pool1d": windows.max_pool_windows,
    "max_pool2d_with_indices": windows.max_pool_windows,
}

__all__ = ["RULES", "WINDOWS", "Rule", "Value"]
