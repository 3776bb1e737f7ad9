"""The arguments of a call: their order, their copies, and their text."""

import torch

from export.tracing.arguments import Arguments

ARGUMENTS = Arguments(
    (torch.zeros(2, 3, 8, 8), {"b": torch.ones(2, dtype=torch.int64), "a": (torch.ones(2, 4),)}),
    {"scale": torch.ones(2, 1)},
)


def test_leaves() -> None:
    """Tensors are in the order of the arguments; entries of a dict keep their order."""
    assert [tuple(tensor.shape) for tensor in ARGUMENTS.leaves] == [(2, 3, 8, 8), (2,), (2, 4), (2, 1)]
    assert ARGUMENTS.sizes == "3x8x8, one number, 4, 1"


def test_cast() -> None:
    """Floating-point tensors change their precision, others do not; all are copies."""
    cast = ARGUMENTS.cast(torch.float64)
    assert [tensor.dtype for tensor in cast.leaves] == [torch.float64, torch.int64, torch.float64, torch.float64]
    assert list(cast.args[1]) == ["b", "a"]
    same = ARGUMENTS.cast(torch.float32)
    same.leaves[1].add_(5)
    same.leaves[3].add_(5)
    assert (int(ARGUMENTS.leaves[1][0]), float(ARGUMENTS.leaves[3][0, 0])) == (1, 1.0)


def test_meta_device() -> None:
    """Shapes and datatypes stay; values are gone."""
    meta = ARGUMENTS.to_meta()
    assert {tensor.device.type for tensor in meta.leaves} == {"meta"}
    assert meta.leaves[1].dtype == torch.int64
