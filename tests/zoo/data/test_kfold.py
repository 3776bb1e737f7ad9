"""K-fold splits, and splits made of images of other splits."""

from dataclasses import replace

import pytest
import torch

from zoo.data.kfold import fold_of, kfold_indices
from zoo.data.registry import load_dataset
from zoo.data.splits import MemorySplit
from zoo.data.subset import Subset
from zoo.errors import SettingsError


def numbered(first: int, count: int) -> MemorySplit:
    """Return images of one pixel, whose value and target count from `first`."""
    numbers = torch.arange(first, first + count)
    return MemorySplit(numbers.to(torch.uint8).reshape(-1, 1, 1, 1), numbers)


class TestFolds:
    """K-fold splits of train and val."""

    def test_each_image_is_held_out_once(self, digits) -> None:
        """The folds are disjoint and together are train and val."""
        indices = torch.cat(kfold_indices(digits, 5)).sort().values
        assert indices.tolist() == list(range(len(digits.train) + len(digits.val)))

    def test_each_class_is_spread_evenly(self, digits) -> None:
        """The numbers of a class's images in two folds differ by at most one."""
        targets = torch.cat([digits.train.targets, digits.val.targets])
        counts = torch.stack([torch.bincount(targets[fold], minlength=10) for fold in kfold_indices(digits, 5)])
        assert int((counts.max(dim=0).values - counts.min(dim=0).values).max()) <= 1

    def test_the_folds_are_deterministic(self, digits) -> None:
        """The folds depend on the data only, not on torch's seed."""
        torch.manual_seed(5)
        again = kfold_indices(load_dataset("digits"), 4)
        assert all(torch.equal(first, second) for first, second in zip(kfold_indices(digits, 4), again, strict=True))

    def test_multi_label_data(self, digits) -> None:
        """Each multi-label image is held out once."""
        splits = {name: _multi_label(digits.split(name)) for name in ("train", "val")}
        indices = torch.cat(kfold_indices(replace(digits, **splits), 3)).sort().values
        assert indices.tolist() == list(range(len(digits.train) + len(digits.val)))

    def test_a_small_class_is_named(self, digits) -> None:
        """A class needs at least as many images as there are folds; the error names the class."""
        few = replace(digits, train=_first(digits.train, 40), val=_first(digits.val, 5))
        with pytest.raises(SettingsError, match=r"the class '\d' of digits has \d+ images in .* 20 folds"):
            kfold_indices(few, 20)

    def test_the_test_split_does_not_change(self, digits) -> None:
        """A fold changes train and val only."""
        fold = fold_of(digits, 2, 5)
        assert fold.test is digits.test
        assert len(fold.train) + len(fold.val) == len(digits.train) + len(digits.val)


class TestSubset:
    """Chosen images of several splits behave as a split."""

    subset = Subset((numbered(0, 4), numbered(4, 3)), torch.tensor([6, 1, 4, 0]))

    def test_images_and_targets_are_in_the_chosen_order(self) -> None:
        """Batches join images of several splits in order, also if all images of a batch come from one split."""
        batches = self.subset.batches([torch.tensor([0, 1, 2, 3]), torch.tensor([3, 1]), torch.tensor([2])])
        assert [batch.flatten().tolist() for batch in batches] == [[6, 1, 4, 0], [0, 1], [4]]
        assert self.subset.targets.tolist() == [6, 1, 4, 0]

    def test_a_view_receives_the_joined_index(self) -> None:
        """A view receives the index in all splits joined, so an image is augmented alike in every fold."""
        calls = []

        def view(image, index):
            calls.append((image.getpixel((0, 0)), index))
            return image

        list(self.subset.batches([torch.tensor([0, 1, 2])], view))
        assert sorted(calls) == [(1, 1), (4, 4), (6, 6)]

    def test_an_index_past_the_end_wraps_around(self) -> None:
        """The index wraps around to the first image, and a view receives a different index each time."""
        indices = []

        def view(image, index):
            indices.append(index)
            return image

        (batch,) = self.subset.batches([torch.tensor([1, 5, 4])], view)
        assert batch.flatten().tolist() == [1, 1, 6]
        assert len(set(indices)) == 3

    def test_the_key_depends_on_the_chosen_images(self) -> None:
        """The key changes with the choice, so a run cannot be resumed with another fold's images."""
        assert replace(self.subset, chosen=torch.tensor([6, 1, 4])).key() != self.subset.key()

    def test_an_index_out_of_range(self) -> None:
        """A chosen index beyond all splits is an error."""
        with pytest.raises(IndexError, match="there are 7 images"):
            list(replace(self.subset, chosen=torch.tensor([7])).batches([torch.tensor([0])]))


def _first(split: MemorySplit, count: int) -> MemorySplit:
    return MemorySplit(split.images[:count], split.targets[:count])


def _multi_label(split: MemorySplit) -> MemorySplit:
    return replace(split, targets=torch.nn.functional.one_hot(split.targets, 10))
