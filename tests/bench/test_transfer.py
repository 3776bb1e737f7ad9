"""The transfer curve: its training images, the choice of recipes, and the sentences of its page."""

import json

import pytest
import torch

from bench.transfer import digits, few_of, merge
from bench.transfer_page import best, hindsight, sentence


def test_few_images_of_each_class_are_drawn_by_the_seed() -> None:
    """A seed always draws the same images; validation and test splits stay complete."""
    data = digits(range(5, 10))
    few = few_of(data, 2, seed=1)
    assert few.train.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(few.train.images, few_of(data, 2, seed=1).train.images)
    assert not torch.equal(few.train.images, few_of(data, 2, seed=2).train.images)
    assert (few.val, few.test) == (data.val, data.test)


def test_validation_chooses_and_test_does_not() -> None:
    """The recipe that is best on the test images is not chosen for it."""
    accuracies = {
        "one": {"val": [60.0, 70.0], "test": [50.0, 51.0]},
        "other": {"val": [61.0, 62.0], "test": [99.0, 99.0]},
    }
    assert best(accuracies, ["one", "other"]) == {"recipe": "one", "test": [50.0, 51.0]}


@pytest.mark.parametrize(
    ("scratch", "tuned", "expected"),
    [
        ([50.0, 60.0], [70.0, 58.0], "tuning is ahead by 9.0 points; tuning is better in 1 of 2 seeds"),
        ([92.0, 93.0], [90.0, 91.0], "tuning is **not** ahead: from scratch is better by 2.0 points"),
        ([98.0, 98.0], [98.2, 98.2], "neither is ahead (+0.2 points)"),
    ],
)
def test_the_page_states_which_side_is_ahead(scratch, tuned, expected) -> None:
    """The sentence also covers the cases where tuning is not ahead."""
    assert expected in sentence({"per_class": 1, "scratch": {"test": scratch}, "tuned": {"test": tuned}}, seeds=2)


def test_the_page_states_the_hindsight() -> None:
    """It is the best mean on the test images of either side, whichever recipe was chosen."""
    recipes = {"scratch: a": [50.0, 60.0], "scratch: b": [70.0, 58.0], "tuned: c": [80.0, 81.0], "tuned: d": [1.0, 2.0]}
    row = {"recipes": {name: {"test": test} for name, test in recipes.items()}}
    assert hindsight(row) == "In hindsight, by the test images: 64.0 % from scratch, 80.5 % tuned."


def test_counts_can_be_measured_separately(tmp_path) -> None:
    """Rows of other counts are kept, except those with another number of seeds."""
    rows = [{"per_class": count, "scratch": {"test": [1.0] * seeds}} for count, seeds in ((1, 2), (2, 2), (5, 3))]
    (tmp_path / "transfer.json").write_text(json.dumps({"results": rows}))
    new = {"per_class": 2, "scratch": {"test": [3.0, 4.0]}}
    assert merge([new], tmp_path / "transfer.json", seeds=2) == [rows[0], new]
