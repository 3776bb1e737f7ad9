"""The network that the command line names, with the options that go with each kind of source."""

from dataclasses import dataclass
from pathlib import Path

from export.errors import SettingsError
from export.source.module import is_function, load_function, plain_preprocessing
from zoo import LoadedNetwork, load_network
from zoo.geometry.input_size import parse_size
from zoo.networks.preprocessing import Preprocessing


@dataclass(frozen=True)
class SourceOptions:
    """What was said of the source, as written."""

    seed: int = 0
    pretrained: bool = False
    pretrained_file: Path | None = None
    input_size: str | None = None
    mean: str | None = None
    std: str | None = None
    labels: Path | None = None


def load_source(source: str, options: SourceOptions) -> LoadedNetwork:
    """Return the network of a run, of a name, or of package.module:function. Raises: SettingsError, and the loaders'."""
    if is_function(source):
        if options.pretrained or options.pretrained_file:
            raise SettingsError(f"{source} gives its own weights: --pretrained and --pretrained-file are for a NET.")
        return load_function(source, _preprocessing(options), _labels(options.labels), options.seed)
    own = ("input_size", "mean", "std", "labels")
    misplaced = [f"--{name.replace('_', '-')}" for name in own if getattr(options, name) is not None]
    if misplaced:
        raise SettingsError(
            f"{', '.join(misplaced)}: only for a network of your own, package.module:function; '{source}' is read as "
            "a network's name or a run's folder, which says it itself."
        )
    return load_network(
        source, seed=options.seed, pretrained=options.pretrained, pretrained_file=options.pretrained_file
    )


def _preprocessing(options: SourceOptions) -> Preprocessing | None:
    if options.input_size is None:
        if options.mean or options.std:
            raise SettingsError("--mean and --std need --input-size C,H,W beside them.")
        return None
    size = parse_size(options.input_size)
    if len(size) != 3:
        raise SettingsError(f"--input-size is C,H,W, such as 3,224,224; got '{options.input_size}'.")
    mean, std = _numbers("--mean", options.mean), _numbers("--std", options.std)
    return plain_preprocessing((size[0], size[1], size[2]), mean, std)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text is not None else None
    except ValueError:
        raise SettingsError(f"numbers are written like 0.5,0.5,0.5; got '{text}'.") from None
    if numbers and 1 < max(numbers) < float("inf"):
        raise SettingsError(
            f"{option} is of pixels from 0 to 1; got '{text}': divide what is of pixels from 0 to 255 by 255."
        )
    return numbers


def _labels(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    if path.exists() and not path.is_file() and not path.is_dir():
        raise SettingsError(f"the labels in {path} cannot be read: it is no plain file, and might never end.")
    try:
        labels = tuple(path.read_text("utf-8-sig").splitlines())  # Windows' editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the labels in {path} cannot be read: {error}") from error
    if not labels:
        raise SettingsError(f"{path} holds no labels: write one for each class, one a line.")
    if "" in labels:
        raise SettingsError(
            f"line {labels.index('') + 1} of {path} is empty: write one label for each class, one a line."
        )
    return labels
