"""A split made of some images of several splits."""

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
    """The images `chosen` of `splits`, by their index in all splits joined one after another.

    A view receives the joined index, so an image is augmented alike in every subset.
    """

    splits: tuple[Split, ...]
    chosen: Tensor

    @property
    def targets(self) -> Tensor:
        return torch.cat([split.targets for split in self.splits])[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, batch_indices: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        total = sum(len(split) for split in self.splits)
        joined = [self.chosen[indices % len(self)] for indices in batch_indices]
        repeats = [indices // len(self) for indices in batch_indices]
        offsets = itertools.accumulate((len(split) for split in self.splits[:-1]), initial=0)
        if any(len(batch) and not 0 <= int(batch.min()) <= int(batch.max()) < total for batch in joined):
            raise IndexError(f"there are {total} images; some of the chosen indices are out of range")
        streams = [
            _split_batches(split, offset, joined, repeats, view)
            for split, offset in zip(self.splits, offsets, strict=True)
        ]
        for _ in joined:
            selections = [next(stream) for stream in streams]
            positions = torch.cat([position for position, _ in selections])
            yield torch.cat([images for _, images in selections if images is not None])[torch.argsort(positions)]

    def key(self) -> str:
        keys = " ".join(split.key() for split in self.splits)
        return hashlib.sha256(f"{keys} {self.chosen.tolist()}".encode()).hexdigest()


@dataclass(frozen=True)
class _OffsetView:
    """A view that receives indices increased by `offset`."""

    view: View
    offset: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        return self.view(image, index + self.offset)


def _split_batches(
    split: Split, offset: int, joined: Sequence[Tensor], repeats: Sequence[Tensor], view: View | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield, for each batch, the positions of the images of `split` in it, and these images, None if there are none.

    `joined` holds the joined indices of each batch, `repeats` how often the subset was passed before each of them.
    """
    positions = [torch.nonzero((batch >= offset) & (batch < offset + len(split))).flatten() for batch in joined]
    split_indices = [
        batch[position] - offset + len(split) * repeat[position]
        for batch, position, repeat in zip(joined, positions, repeats, strict=True)
    ]
    images = iter(
        split.batches([indices for indices in split_indices if len(indices)], view and _OffsetView(view, offset))
    )
    for position in positions:
        yield position, next(images) if len(position) else None
