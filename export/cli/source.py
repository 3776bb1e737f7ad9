"""Loads the network that the command line specifies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.errors import SettingsError
from export.source.module import is_function, load_function, load_function_with_inputs, plain_preprocessing
from export.source.source_network import SourceNetwork
from protos.labels import parse_labels
from zoo import LoadedNetwork, load_network
from zoo.geometry.input_size import parse_size
from zoo.networks.preprocessing import Preprocessing

FUNCTION_OPTIONS = ("input_size", "mean", "std", "labels")
IMAGE_OPTIONS = ("input_size", "mean", "std")


@dataclass(frozen=True)
class SourceOptions:
    """Options of the source, as on the command line.

    Attributes:
        seed: Seed of random weights.
        pretrained: Whether to load pretrained weights; for a network by name.
        pretrained_file: File with pretrained weights; for a network by name.
        input_size: "C,H,W" of the input, for package.module:function.
        mean: Comma-separated mean per channel, of pixel values from 0 to 1; for package.module:function.
        std: Comma-separated standard deviation per channel, likewise.
        labels: Text file with one label per line, for package.module:function.
        has_inputs: Whether the inputs are described one by one, so that the network need not accept images.
    """

    seed: int = 0
    pretrained: bool = False
    pretrained_file: Path | None = None
    input_size: str | None = None
    mean: str | None = None
    std: str | None = None
    labels: Path | None = None
    has_inputs: bool = False


def load_source(source: str, options: SourceOptions) -> LoadedNetwork | SourceNetwork:
    """Load a network from a run, by name, or from package.module:function.

    Raises: SettingsError, SourceError, ZooError.
    """
    if options.has_inputs:
        _require_none(options, IMAGE_OPTIONS, "for one image, but --input describes the network's inputs: omit them.")
    if is_function(source):
        if options.pretrained or options.pretrained_file:
            raise SettingsError(
                f"{source} has its own weights: --pretrained and --pretrained-file need a network name."
            )
        if options.has_inputs:
            return load_function_with_inputs(source, _labels(options.labels), options.seed)
        return load_function(source, _preprocessing(options), _labels(options.labels), options.seed)
    _require_none(
        options,
        FUNCTION_OPTIONS,
        f"only for package.module:function; '{source}' is the name of a network or the folder of a run, which define "
        "these themselves.",
    )
    return load_network(
        source, seed=options.seed, pretrained=options.pretrained, pretrained_file=options.pretrained_file
    )


def _require_none(options: SourceOptions, names: Sequence[str], reason: str) -> None:
    """Reject the options `names`, if any is set. Raises: SettingsError."""
    misplaced = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if misplaced:
        raise SettingsError(f"{', '.join(misplaced)}: {reason}")


def _preprocessing(options: SourceOptions) -> Preprocessing | None:
    if options.input_size is None:
        if options.mean or options.std:
            raise SettingsError("--mean and --std also need --input-size C,H,W.")
        return None
    size = parse_size(options.input_size)
    if len(size) != 3:
        raise SettingsError(f"--input-size must be C,H,W, such as 3,224,224; got '{options.input_size}'.")
    mean, std = _numbers("--mean", options.mean), _numbers("--std", options.std)
    return plain_preprocessing((size[0], size[1], size[2]), mean, std)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text is not None else None
    except ValueError:
        raise SettingsError(f"{option} must be numbers such as 0.5,0.5,0.5; got '{text}'.") from None
    if numbers and 1 < max(numbers) < float("inf"):
        raise SettingsError(
            f"{option} refers to pixel values from 0 to 1; got '{text}': divide values for 0 to 255 by 255."
        )
    return numbers


def _labels(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    if path.exists() and not path.is_file() and not path.is_dir():
        raise SettingsError(f"cannot read labels from {path}: not a regular file.")
    try:
        labels = tuple(parse_labels(path.read_bytes()))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read labels from {path}: {error}") from error
    if not labels:
        raise SettingsError(f"{path} contains no labels: write one label per class, each on its own line.")
    if "" in labels:
        raise SettingsError(f"line {labels.index('') + 1} of {path} is empty: write one label per line.")
    return labels
