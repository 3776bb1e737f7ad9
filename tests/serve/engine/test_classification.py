"""Outputs as their best classes, in Triton's words."""

import numpy as np
import pytest
import tritonclient.grpc

from serve.engine.classification import classify
from serve.wire.tensors import Tensor

ROWS = np.array([[0.5, 2, -1], [7, 7, 7]], np.float32)


def ask(url: str, model: str, array: np.ndarray, classes: int) -> list[object]:
    """Ask as any user of tritonclient would; the words come decoded."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        tensor = tritonclient.grpc.InferInput("x", array.shape, "FP32")
        tensor.set_data_from_numpy(array)
        wanted = tritonclient.grpc.InferRequestedOutput("y", class_count=classes)
        found = client.infer(model, [tensor], outputs=[wanted], priority=1, timeout=5_000_000).as_numpy("y")
    return [[each.decode() if isinstance(each, bytes) else each for each in row] for row in np.atleast_2d(found)]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (1, [["2.000000:1:zürich"], ["7.000000:0:cat"]]),
        (2, [["2.000000:1:zürich", "0.500000:0:cat"], ["7.000000:0:cat", "7.000000:1:zürich"]]),
        (
            9,
            [
                ["2.000000:1:zürich", "0.500000:0:cat", "-1.000000:2"],
                ["7.000000:0:cat", "7.000000:1:zürich", "7.000000:2"],
            ],
        ),
        (0, [[0.5, 2, -1], [7, 7, 7]]),
    ],
)
def test_best_classes(url: str, classes: int, expected: list[object]) -> None:
    """Best first, ties by index, no more than there are; 0 is the plain tensor; a class without a label has none."""
    assert ask(url, "labelled", ROWS, classes) == expected


def test_without_labels(url: str) -> None:
    """A model without a label file gives value and index."""
    assert ask(url, "bare", ROWS[:1], 1) == [["2.000000:1"]]


def test_without_a_batch(url: str) -> None:
    """A model without a batch is ranked as a whole."""
    assert ask(url, "whole", ROWS, 2) == [["7.000000:3", "7.000000:4"]]


def test_unsigned_numbers() -> None:
    """The smallest unsigned number comes last."""
    found = classify(Tensor("y", "UINT8", np.array([[0, 255, 3]], np.uint8)), 3, [], batched=True)
    assert found.array.tolist() == [[b"255.000000:1", b"3.000000:2", b"0.000000:0"]]
