"""Tests of the classification extension."""

import numpy as np
import pytest
import tritonclient.grpc

from serve.engine.classification import classify
from serve.wire.tensors import Tensor

ROWS = np.array([[0.5, 2, -1], [7, 7, 7]], np.float32)


def infer(url: str, model: str, array: np.ndarray, classes: int) -> list[object]:
    """Return the output `y` by tritonclient, with strings decoded."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        tensor = tritonclient.grpc.InferInput("x", array.shape, "FP32")
        tensor.set_data_from_numpy(array)
        requested = tritonclient.grpc.InferRequestedOutput("y", class_count=classes)
        y = client.infer(model, [tensor], outputs=[requested], priority=1, timeout=5_000_000).as_numpy("y")
    return [[value.decode() if isinstance(value, bytes) else value for value in row] for row in np.atleast_2d(y)]


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
    """Classes are sorted by value, then by index; 0 returns the tensor; a class may have no label."""
    assert infer(url, "labelled", ROWS, classes) == expected


def test_without_labels(url: str) -> None:
    """A model without a label file returns value and index."""
    assert infer(url, "bare", ROWS[:1], 1) == [["2.000000:1"]]


def test_without_a_batch(url: str) -> None:
    """All values of a model without a batch are ranked together."""
    assert infer(url, "unbatched", ROWS, 2) == [["7.000000:3", "7.000000:4"]]


def test_unsigned_numbers() -> None:
    """The smallest unsigned number is ranked last."""
    tensor = classify(Tensor("y", "UINT8", np.array([[0, 255, 3]], np.uint8)), 3, [], batched=True)
    assert tensor.array.tolist() == [[b"255.000000:1", b"3.000000:2", b"0.000000:0"]]
