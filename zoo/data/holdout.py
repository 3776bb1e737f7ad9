"""Which images are held out where a data set has no split for them: the same ones each time, on every machine."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.data.targets import rarest_label
from zoo.errors import DataError

HELD_OUT = 0.1  # the share of each class that becomes val, and test


def divide(
    keys: Sequence[str], classes: Sequence[int], labels: Sequence[str], names: Sequence[str]
) -> dict[str, list[int]]:
    """Take a tenth of each class, at least one image, off for each of `names`: those of the lowest hashes.

    `keys` are what is hashed, one an image. What is left is "train"; all are indices, in order.

    Raises:
        DataError: a class has too few images to divide.
    """
    splits: dict[str, list[int]] = {name: [] for name in [*names, "train"]}
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(keys)), key=lambda index: _hash(keys[index])):
        members.setdefault(classes[index], []).append(index)
    for number, rest in members.items():
        if len(rest) <= len(names):
            need = len(names) + 1
            raise DataError(f"the class '{labels[number]}' has {len(rest)} images; to divide them it needs {need}")
        count = max(1, round(HELD_OUT * len(rest)))
        for name in names:
            splits[name] += rest[:count]
            rest = rest[count:]
        splits["train"] += rest
    return {name: sorted(indices) for name, indices in splits.items()}


def divide_labels(keys: Sequence[str], targets: Tensor, names: Sequence[str]) -> dict[str, list[int]]:
    """The same for images with several labels, `targets` (N, labels): a tenth of them, rarest labels first.

    So each split has about a tenth of each label's images.
    """
    rarest = rarest_label(targets).tolist()
    left = sorted(range(len(keys)), key=lambda index: (rarest[index], _hash(keys[index])))
    count = max(1, round(HELD_OUT * len(left)))
    splits: dict[str, list[int]] = {}
    for name in names:
        taken = set(torch.linspace(0, len(left), count + 1).long()[:-1].tolist())
        splits[name] = sorted(left[place] for place in taken)
        left = [index for place, index in enumerate(left) if place not in taken]
    return splits | {"train": sorted(left)}


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
