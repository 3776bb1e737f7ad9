"""Some images of several splits, as a split of their own."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from zoo.data.splits import Split, View


@dataclass(frozen=True)
class Subset:
    """The images `chosen` of `parts`, by their numbers where the parts' images are counted one after another.

    A view is told these numbers, so an image looks the same in whichever selection it stands.
    """

    parts: tuple[Split, ...]
    chosen: Tensor

    @property
    def targets(self) -> Tensor:
        return torch.cat([part.targets for part in self.parts])[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, chosen: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        total = sum(len(part) for part in self.parts)
        numbers = [self.chosen[indices % len(self)] for indices in chosen]
        rounds = [indices // len(self) for indices in chosen]
        ends = list(itertools.accumulate((len(part) for part in self.parts), initial=0))
        if any(len(each) and not 0 <= int(each.min()) <= int(each.max()) < total for each in numbers):
            raise IndexError(f"there are {total} images; some that are chosen are not among them")
        streams = [
            _batches_of(part, offset, numbers, rounds, view) for part, offset in zip(self.parts, ends[:-1], strict=True)
        ]
        for _ in numbers:
            found = [next(stream) for stream in streams]
            places = torch.cat([place for place, _ in found])
            yield torch.cat([images for _, images in found if images is not None])[torch.argsort(places)]

    def key(self) -> str:
        parts = " ".join(part.key() for part in self.parts)
        return hashlib.sha256(f"{parts} {self.chosen.tolist()}".encode()).hexdigest()


@dataclass(frozen=True)
class _Renumbered:
    """A view that counts on from `offset`."""

    view: View
    offset: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        return self.view(image, index + self.offset)


def _batches_of(
    part: Split, offset: int, numbers: Sequence[Tensor], rounds: Sequence[Tensor], view: View | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Of each batch, the places that this part fills, and its images there, None where there are none."""
    places = [torch.nonzero((each >= offset) & (each < offset + len(part))).flatten() for each in numbers]
    own = [
        each[place] - offset + len(part) * turn[place]
        for each, turn, place in zip(numbers, rounds, places, strict=True)
    ]
    images = iter(part.batches([each for each in own if len(each)], view and _Renumbered(view, offset)))
    for place in places:
        yield place, next(images) if len(place) else None
