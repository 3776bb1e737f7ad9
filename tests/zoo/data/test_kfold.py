"""Folds: who is in which, and a split made of parts of others."""

from dataclasses import replace

import pytest
import torch

from zoo.data.kfold import divide, fold_of
from zoo.data.registry import load_dataset
from zoo.data.splits import MemorySplit
from zoo.data.subset import Subset
from zoo.errors import SettingsError


def numbered(first: int, count: int) -> MemorySplit:
    """Images of one pixel, whose value and target are their number."""
    numbers = torch.arange(first, first + count)
    return MemorySplit(numbers.to(torch.uint8).reshape(-1, 1, 1, 1), numbers)


class TestDivision:
    """Each image of train and val is held out once, and each class evenly."""

    def test_each_image_is_held_out_once(self, digits) -> None:
        """The folds are disjoint and hold all of train and val."""
        every = torch.cat(divide(digits, 5)).sort().values
        assert every.tolist() == list(range(len(digits.train) + len(digits.val)))

    def test_each_class_is_spread_evenly(self, digits) -> None:
        """No fold has two more images of a class than another."""
        targets = torch.cat([digits.train.targets, digits.val.targets])
        counts = torch.stack([torch.bincount(targets[fold], minlength=10) for fold in divide(digits, 5)])
        assert int((counts.max(dim=0).values - counts.min(dim=0).values).max()) <= 1

    def test_the_division_is_the_same_each_time(self, digits) -> None:
        """It follows from the data alone."""
        torch.manual_seed(5)
        again = divide(load_dataset("digits"), 4)
        assert all(torch.equal(one, other) for one, other in zip(divide(digits, 4), again, strict=True))

    def test_several_labels_a_image(self, digits) -> None:
        """Where there are no classes to spread, each image is still held out once."""
        parts = {name: _with_labels(digits.split(name)) for name in ("train", "val")}
        every = torch.cat(divide(replace(digits, **parts), 3)).sort().values
        assert every.tolist() == list(range(len(digits.train) + len(digits.val)))

    def test_a_small_class_is_named(self, digits) -> None:
        """A class cannot be in more folds than it has images."""
        few = replace(digits, train=_first(digits.train, 40), val=_first(digits.val, 5))
        with pytest.raises(SettingsError, match=r"the class '\d' of digits has \d+ images in .* 20 folds"):
            divide(few, 20)

    def test_test_stays(self, digits) -> None:
        """A fold changes train and val alone."""
        fold = fold_of(digits, 2, 5)
        assert fold.test is digits.test
        assert len(fold.train) + len(fold.val) == len(digits.train) + len(digits.val)


class TestPartSplit:
    """A selection behaves as a split."""

    split = Subset((numbered(0, 4), numbered(4, 3)), torch.tensor([6, 1, 4, 0]))

    def test_images_and_targets_come_in_the_order_that_is_asked_for(self) -> None:
        """Across the parts, also where a batch lies in one part alone."""
        batches = self.split.batches([torch.tensor([0, 1, 2, 3]), torch.tensor([3, 1]), torch.tensor([2])])
        assert [batch.flatten().tolist() for batch in batches] == [[6, 1, 4, 0], [0, 1], [4]]
        assert self.split.targets.tolist() == [6, 1, 4, 0]

    def test_a_view_is_told_the_number_among_all(self) -> None:
        """So that an image is augmented alike in every fold."""
        told = []

        def view(image, index):
            told.append((image.getpixel((0, 0)), index))
            return image

        list(self.split.batches([torch.tensor([0, 1, 2])], view))
        assert sorted(told) == [(1, 1), (4, 4), (6, 6)]

    def test_an_index_beyond_the_last_begins_again(self) -> None:
        """With another number for the view, as every split has it."""
        told = []

        def view(image, index):
            told.append(index)
            return image

        (batch,) = self.split.batches([torch.tensor([1, 5, 4])], view)
        assert batch.flatten().tolist() == [1, 1, 6]
        assert len(set(told)) == 3

    def test_the_key_changes_with_what_is_chosen(self) -> None:
        """A run cannot go on with another fold's images."""
        assert replace(self.split, chosen=torch.tensor([6, 1, 4])).key() != self.split.key()

    def test_a_image_that_is_not_there(self) -> None:
        """Is an error, not another image."""
        with pytest.raises(IndexError, match="there are 7 images"):
            list(replace(self.split, chosen=torch.tensor([7])).batches([torch.tensor([0])]))


def _first(split: MemorySplit, count: int) -> MemorySplit:
    return MemorySplit(split.images[:count], split.targets[:count])


def _with_labels(split: MemorySplit) -> MemorySplit:
    return replace(split, targets=torch.nn.functional.one_hot(split.targets, 10))
