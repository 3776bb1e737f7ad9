"""Datasets by name. To add a source, add a row to SOURCES, a module with its opener, and a test.

Everything else follows from the row: the names that an error lists, its "did you mean", and the redaction of paths.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from zoo.data.dataset import Dataset, DataSource, ImageCollection, StoredImages
from zoo.data.paths import redact_hub_name, redact_path
from zoo.errors import DataError, did_you_mean
from zoo.settings import BadImages

Opener = Callable[[str, BadImages], Dataset | ImageCollection]


@dataclass(frozen=True)
class Source:
    """A row of SOURCES.

    Attributes:
        open: opens a dataset, called with the rest of the name after the prefix and with `bad_images`. Returns a
            `Dataset` of fixed size, or an `ImageCollection` to be resized to the network's input. Raises `DataError`.
        argument: placeholder for the rest of the name, as errors show it; empty if the name has no rest.
        redact: returns the rest of the name without paths of this machine, for reports and model cards.
    """

    open: Opener
    argument: str = ""
    redact: Callable[[str], str] = str


def imported(path: str) -> Opener:
    """Return an opener that imports the function "module:function" when it is called."""
    return lambda argument, bad_images: pkgutil.resolve_name(path)(argument, bad_images)


# The name of a built-in dataset, or the prefix of a source, up to and including its colon.
SOURCES: dict[str, Source] = {
    "digits": Source(imported("zoo.data.digits:open_digits")),
    "signal": Source(imported("zoo.data.synthetic:open_signal")),
    "folder:": Source(imported("zoo.data.image_folder:open_folder"), "PATH", redact_path),
    "torchvision:": Source(imported("zoo.data.torchvision:open_torchvision"), "NAME"),
    "hf:": Source(imported("zoo.data.huggingface:open_hf"), "NAME", redact_hub_name),
}


def dataset_names() -> list[str]:
    """Return the names that `find_data` accepts, with placeholders: digits, ..., folder:PATH, ..."""
    return [f"{prefix}{source.argument}" for prefix, source in SOURCES.items()]


def find_data(name: str, *, bad_images: BadImages = "fail", workers: int = 0) -> DataSource:
    """Open a dataset by name; see docs/data.md.

    Args:
        name: one of `dataset_names`.
        bad_images: "fail" or "skip" files of a folder that are not images.
        workers: extra processes that decode stored images; 0: decode in this one.

    Raises:
        DataError: there is no dataset of that name, or it cannot be used.
    """
    prefix, argument = _parse(name)
    opened = SOURCES[prefix].open(argument, bad_images)
    return opened if isinstance(opened, Dataset) else StoredImages(redacted_name(name), opened, workers)


def load_dataset(name: str) -> Dataset:
    """Load a built-in dataset by name.

    Raises:
        DataError: there is no built-in dataset of that name.
    """
    prefix, _ = _parse(name)
    dataset = None if SOURCES[prefix].argument else find_data(name)
    if not isinstance(dataset, Dataset):
        raise DataError(f"'{name}' is not a built-in dataset; open it with find_data")
    return dataset


def redacted_name(name: str) -> str:
    """Return a dataset's name without paths of this machine: folder:/home/me/flowers becomes folder:flowers."""
    start, colon, argument = name.partition(":")
    source = SOURCES.get(start + colon)
    return f"{start}{colon}{source.redact(argument)}" if source else name


def _parse(name: str) -> tuple[str, str]:
    """Return a name's prefix, a key of SOURCES, and the rest.

    Raises:
        DataError: no source has that prefix.
    """
    start, colon, argument = name.partition(":")
    prefix = start + colon
    if prefix not in SOURCES:
        hint = did_you_mean(prefix, SOURCES) or "."
        raise DataError(f"no dataset is called '{name}'{hint} There are: {', '.join(dataset_names())}")
    return prefix, argument
