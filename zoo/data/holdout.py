"""Held-out validation and test images for datasets without such splits, the same on every machine."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.data.targets import rarest_label
from zoo.errors import DataError

HELD_OUT = 0.1  # share of each class in val, and in test


def holdout_split(
    keys: Sequence[str], classes: Sequence[int], labels: Sequence[str], names: Sequence[str]
) -> dict[str, list[int]]:
    """Hold out a tenth of each class, at least one image, for each split in `names`; the rest is "train".

    Args:
        keys: one string per image; the images with the lowest hashes are held out.
        classes: the class of each image.
        labels: the names of the classes.
        names: the splits to hold out, such as "val" and "test".

    Returns:
        The indices of each split's images, in ascending order.

    Raises:
        DataError: a class has too few images.
    """
    splits: dict[str, list[int]] = {name: [] for name in [*names, "train"]}
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(keys)), key=lambda index: _hash(keys[index])):
        members.setdefault(classes[index], []).append(index)
    for class_index, rest in members.items():
        required = len(names) + 1
        if len(rest) < required:
            raise DataError(
                f"the class '{labels[class_index]}' has {len(rest)} images; splitting them needs at least {required}"
            )
        count = max(1, round(HELD_OUT * len(rest)))
        for name in names:
            splits[name] += rest[:count]
            rest = rest[count:]
        splits["train"] += rest
    return {name: sorted(indices) for name, indices in splits.items()}


def holdout_split_multilabel(keys: Sequence[str], targets: Tensor, names: Sequence[str]) -> dict[str, list[int]]:
    """Hold out a tenth of multi-label images, with `targets` (N, labels), for each split in `names`.

    Images are ordered by their rarest label, and the held-out ones are evenly spaced in that order, so each split has
    about a tenth of each label's images.
    """
    rarest = rarest_label(targets).tolist()
    remaining = sorted(range(len(keys)), key=lambda index: (rarest[index], _hash(keys[index])))
    count = max(1, round(HELD_OUT * len(remaining)))
    splits: dict[str, list[int]] = {}
    for name in names:
        positions = set(torch.linspace(0, len(remaining), count + 1).long()[:-1].tolist())
        splits[name] = sorted(remaining[position] for position in positions)
        remaining = [index for position, index in enumerate(remaining) if position not in positions]
    return splits | {"train": sorted(remaining)}


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
