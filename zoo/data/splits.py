"""The images of one split: in memory, as files, or of a library's data set, decoded when they are asked for."""

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from zoo.data.image_io import READING_ERRORS, read_image, reason_of, upright
from zoo.errors import DataError

View = Callable[
    [Image.Image, int], Image.Image
]  # an image and its index in the split, to an image of the network's size


class Split(Protocol):
    """Labelled images; `targets` are int64, of classes (N,) or of labels (N, labels): see targets.py."""

    @property
    def targets(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def batches(self, chosen: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        """For each tensor of indices, their images as uint8 (N, H, W, C), each through `view`.

        Without a view they come as an evaluation sees them. Torch's, numpy's and Python's generators stay as they are.
        An index beyond the last image begins again with the first; the view is told the index itself.
        """
        ...

    def key(self) -> str:
        """A hash that changes with the images, their order or their targets; of files, by path, size and time."""
        ...


@dataclass(frozen=True)
class MemorySplit:
    """`images` is uint8 (N, H, W, C). A signal of length L is an image of height 1: (N, 1, L, C)."""

    images: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.targets.shape[:1] != (len(self.images),):
            have = tuple(self.targets.shape)
            raise DataError(f"{len(self.images)} images need as many targets; got targets of shape {have}")

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, chosen: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        for indices in chosen:
            images = self.images[indices % len(self)]
            yield (
                images
                if view is None
                else torch.stack(
                    [_pixels(view(_image(image), index)) for image, index in zip(images, indices.tolist(), strict=True)]
                )
            )

    def key(self) -> str:
        return hash_of(self.images.numpy().tobytes(), self.targets.numpy().tobytes())


@dataclass(frozen=True)
class FileSplit:
    """Image files; `plain` is the evaluation's view, `workers` the processes that decode, 0 for none besides ours."""

    files: tuple[Path, ...]
    targets: Tensor
    channels: int
    plain: View
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, chosen: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        return _loaded(_Images(self, self.channels, view or self.plain), chosen, self.workers)

    def read(self, index: int, channels: int) -> Image.Image:
        """The image of that index, as it is."""
        return read_image(self.files[index], channels)

    def key(self) -> str:
        states = [(file, file.stat()) for file in self.files]
        files = [f"{file.resolve()} {state.st_size} {state.st_mtime_ns}" for file, state in states]
        return hash_of("\n".join(files).encode(), self.targets.numpy().tobytes())


class ImageSource(Protocol):
    """Images by number, as a library has them."""

    def __getitem__(self, index: int) -> Image.Image: ...


@dataclass(frozen=True, eq=False)
class ShelfSplit:
    """Those images of a shelf that `indices` number; `shelf_key` changes with the shelf's images."""

    shelf: ImageSource
    shelf_key: str
    indices: tuple[int, ...]
    targets: Tensor
    channels: int
    plain: View
    workers: int

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, chosen: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        return _loaded(_Images(self, self.channels, view or self.plain), chosen, self.workers)

    def read(self, index: int, channels: int) -> Image.Image:
        """The image of that index, as it is.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return upright(self.shelf[self.indices[index]], channels)
        except READING_ERRORS as error:
            raise DataError(f"image {self.indices[index]} cannot be read: {reason_of(error)}") from error

    def key(self) -> str:
        return hash_of(self.shelf_key.encode(), repr(self.indices).encode(), self.targets.numpy().tobytes())


@dataclass(frozen=True)
class _Images(TorchDataset[Tensor]):
    split: FileSplit | ShelfSplit
    channels: int
    view: View

    def __getitem__(self, index: int) -> Tensor:
        return _pixels(self.view(self.split.read(index % len(self.split), self.channels), index))


def _loaded(images: _Images, chosen: Sequence[Tensor], workers: int) -> Iterator[Tensor]:
    """Batches as they come; a worker's DataError says what it would say here, without the worker's traceback."""
    try:
        yield from _loader(images, chosen, workers)
    except DataError as error:
        raise DataError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from error


def _loader(images: _Images, chosen: Sequence[Tensor], workers: int) -> "DataLoader[Tensor]":
    sampler = [indices.tolist() for indices in chosen]
    # A generator of its own, since a loader draws a seed for its workers from torch's when it has none.
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=min(workers, len(sampler)),
        generator=torch.Generator(),
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; ours still needs the batches under way to stop well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def hash_of(*parts: bytes) -> str:
    """Of bytes, part by part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _pixels(image: Image.Image) -> Tensor:
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels.reshape(image.height, image.width, -1))  # (H, W, C)


def _image(image: Tensor) -> Image.Image:
    pixels = image.numpy()  # (H, W, C)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
