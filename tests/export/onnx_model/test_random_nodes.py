"""Nodes that draw random numbers."""

import onnx
import pytest
from onnx import parser

from export.onnx_model.random_nodes import random_nodes


def model(body: str) -> onnx.ModelProto:
    """Return a model that computes y of x."""
    text = f'<ir_version: 10, opset_import: ["": 20]> graph (float[N] x, bool flag) => (float[N] y) {{ {body} }}'
    return parser.parse_model(text)  # type: ignore[no-any-return]


RATIO = "ratio = Constant <value = float {0.5}> ()"


@pytest.mark.parametrize(
    ("body", "operations"),
    [
        ("y = RandomUniformLike (x)", ["RandomUniformLike"]),
        ("y = Dropout (x)", []),
        (
            f"{RATIO} on = Constant <value = bool {{1}}> () y = Dropout (x, ratio, on)",
            ["Dropout"],
        ),
        (
            f"{RATIO} off = Constant <value = bool {{0}}> () y = Dropout (x, ratio, off)",
            [],
        ),
        ("y = Dropout (x, , flag)", ["Dropout"]),
    ],
    ids=["uniform", "dropout", "training", "evaluation", "unknown"],
)
def test_random_nodes(body: str, operations: list[str]) -> None:
    """A dropout draws numbers in training mode only, also in a mode that is not known."""
    assert [operation for operation, _ in random_nodes(model(body))] == operations
