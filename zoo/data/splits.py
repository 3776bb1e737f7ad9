"""The images of one split: in memory, or decoded on demand from files or from another library's dataset."""

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

from zoo.data.image_io import READING_ERRORS, decode, read_image, reason_of
from zoo.errors import DataError

# Maps an image and its index in the split to an image of the network's input size.
View = Callable[[Image.Image, int], Image.Image]


class Split(Protocol):
    """Labelled images; `targets` are int64: classes (N,) or labels (N, labels), see targets.py."""

    @property
    def targets(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def batches(self, batch_indices: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        """Yield the images of each tensor of indices, uint8 (N, H, W, C), each image passed through `view`.

        None is the evaluation view. The global generators of torch, NumPy and Python do not change. Indices are taken
        modulo the split's length, but `view` receives the index itself.
        """
        ...

    def key(self) -> str:
        """Return a hash of the images, their order and their targets; files count by path, size and time."""
        ...


@dataclass(frozen=True)
class MemorySplit:
    """Images in memory, uint8 (N, H, W, C). A signal of length L is an image of height 1: (N, 1, L, C)."""

    images: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.targets.shape[:1] != (len(self.images),):
            shape = tuple(self.targets.shape)
            raise DataError(f"{len(self.images)} images need as many targets; got targets of shape {shape}")

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, batch_indices: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        for indices in batch_indices:
            images = self.images[indices % len(self)]
            if view is not None:
                pairs = zip(images, indices.tolist(), strict=True)
                images = torch.stack([_to_tensor(view(_to_image(image), index)) for image, index in pairs])
            yield images

    def key(self) -> str:
        return hash_of(self.images.numpy().tobytes(), self.targets.numpy().tobytes())


@dataclass(frozen=True)
class FileSplit:
    """Image files, decoded on demand.

    Attributes:
        files: the files, by index.
        targets: classes (N,) or labels (N, labels), int64.
        channels: 1 for greyscale, 3 for RGB.
        eval_view: the view that `batches` uses by default.
        workers: extra processes that decode; 0: decode in this one.
    """

    files: tuple[Path, ...]
    targets: Tensor
    channels: int
    eval_view: View
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_indices: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        return _load_batches(_ViewedImages(self, self.channels, view or self.eval_view), batch_indices, self.workers)

    def read(self, index: int, channels: int) -> Image.Image:
        """Return the image at `index` in its own size."""
        return read_image(self.files[index], channels)

    def key(self) -> str:
        states = [(file, file.stat()) for file in self.files]
        files = [f"{file.resolve()} {state.st_size} {state.st_mtime_ns}" for file, state in states]
        return hash_of("\n".join(files).encode(), self.targets.numpy().tobytes())


class ImageSource(Protocol):
    """The images of a library's dataset, by index."""

    def __getitem__(self, index: int) -> Image.Image: ...


@dataclass(frozen=True, eq=False)
class LibrarySplit:
    """Images of a library's dataset, decoded on demand.

    Attributes:
        source: all images of the library's split.
        source_key: a string that changes with the images of `source`.
        indices: the indices of this split's images in `source`.
        targets: classes (N,) or labels (N, labels), int64.
        channels: 1 for greyscale, 3 for RGB.
        eval_view: the view that `batches` uses by default.
        workers: extra processes that decode; 0: decode in this one.
    """

    source: ImageSource
    source_key: str
    indices: tuple[int, ...]
    targets: Tensor
    channels: int
    eval_view: View
    workers: int

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, batch_indices: Sequence[Tensor], view: View | None = None) -> Iterator[Tensor]:
        return _load_batches(_ViewedImages(self, self.channels, view or self.eval_view), batch_indices, self.workers)

    def read(self, index: int, channels: int) -> Image.Image:
        """Return the image at `index` in its own size.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return decode(self.source[self.indices[index]], channels)
        except READING_ERRORS as error:
            raise DataError(f"image {self.indices[index]} cannot be read: {reason_of(error)}") from error

    def key(self) -> str:
        return hash_of(self.source_key.encode(), repr(self.indices).encode(), self.targets.numpy().tobytes())


@dataclass(frozen=True)
class _ViewedImages(TorchDataset[Tensor]):
    split: FileSplit | LibrarySplit
    channels: int
    view: View

    def __getitem__(self, index: int) -> Tensor:
        return _to_tensor(self.view(self.split.read(index % len(self.split), self.channels), index))


def _load_batches(images: _ViewedImages, batch_indices: Sequence[Tensor], workers: int) -> Iterator[Tensor]:
    """Yield the batches; re-raise a worker's DataError without the worker's traceback."""
    try:
        yield from _loader(images, batch_indices, workers)
    except DataError as error:
        raise DataError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from error


def _loader(images: _ViewedImages, batch_indices: Sequence[Tensor], workers: int) -> DataLoader[Tensor]:
    batches = [indices.tolist() for indices in batch_indices]
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        generator=torch.Generator(),  # without it, the loader draws its workers' seed from torch's global generator
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the main process needs the current batches to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def hash_of(*chunks: bytes) -> str:
    """Return a SHA-256 of several byte strings that also depends on where each ends."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(hashlib.sha256(chunk).digest())
    return digest.hexdigest()


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels.reshape(image.height, image.width, -1))  # (H, W, C)


def _to_image(image: Tensor) -> Image.Image:
    pixels = image.numpy()  # (H, W, C)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
