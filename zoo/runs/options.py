"""The options that `train` and `tune` share, each once: what it is called, its type, its help.

A new setting is one field of TrainSettings and one line of RunOptions; both verbs then have it, and so have the
environment and the config file.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

import typer

from zoo.geometry.input_size import parse_input_size
from zoo.settings import BadImages, Device, Imbalance, Precision, Tracker, TrainSettings, Transfer

TUNE_DEFAULTS = {"lr": 2e-3, "weight_decay": 0.05, "layer_decay": 0.75}  # where tune's are not those of TrainSettings
RENAMED = {"max_shift": "max_shift_px"}  # options that have another name than their setting

BadImagesOption = Annotated[
    BadImages,
    typer.Option(help="What to do about files that are no images: fail, or leave them out. Either way they are named."),
]
Workers = Annotated[int, typer.Option(help="Processes that decode the images of a folder.")]
DataOption = Annotated[
    str,
    typer.Option(help="The data set: digits, signal, folder:PATH, torchvision:NAME or hf:NAME; docs/data.md has them."),
]
Out = Annotated[Path, typer.Option(help="The new run's folder.")]
Folds = Annotated[
    int,
    typer.Option(help="Train that many runs, RUN/fold-1 and so on; each holds out another part of train and val."),
]
FindLr = Annotated[
    bool, typer.Option("--find-lr", help="Make no run: suggest a learning rate, and draw the test of it to RUN.lr.png.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that stopped in this folder.")]


class RunOptions(TypedDict):
    """What both verbs take besides the network, the data and the run's folder; defaults are those of TrainSettings."""

    epochs: Annotated[int, typer.Option(help="How often each training image is seen.")]
    batch_size: Annotated[int, typer.Option(help="Images per step, over all processes together.")]
    accumulate_steps: Annotated[
        int, typer.Option(help="Compute each batch in so many pieces, where it is too large for the memory.")
    ]
    patience: Annotated[int, typer.Option(help="End after so many epochs without a better one; 0: never.")]
    optimizer: Annotated[str, typer.Option(help="By timm's name: adamw, sgd, lamb, ...")]
    lr: Annotated[float, typer.Option(help="The learning rate at its peak.")]
    weight_decay: Annotated[float, typer.Option(help="Of weights, not of biases and norms.")]
    layer_decay: Annotated[
        float, typer.Option(help="Each layer's learning rate as a share of that of the one after it.")
    ]
    ema_decay: Annotated[float, typer.Option(help="Keep the moving average of the weights, such as 0.999; 0: not.")]
    clip_grad_norm: Annotated[float, typer.Option(help="Cut longer gradients to this length; 0: not.")]
    label_smoothing: Annotated[float, typer.Option(help="Share of the target spread over all classes.")]
    drop_rate: Annotated[float, typer.Option(help="Dropout before the classifier.")]
    max_shift: Annotated[int, typer.Option(help="Move training images by up to this many pixels.")]
    flip: Annotated[
        float | None, typer.Option(help="Share of training images to mirror. By default 0.5 for folders, else 0.")
    ]
    min_crop: Annotated[
        float | None,
        typer.Option(help="Least share of its area that a random crop keeps. By default 0.35 for folders, else 1."),
    ]
    rand_augment: Annotated[int, typer.Option(help="Magnitude of RandAugment, to 10; 0: none.")]
    mixup: Annotated[float, typer.Option(help="Alpha of mixup: pairs of images are blended; 0: not.")]
    cutmix: Annotated[float, typer.Option(help="Alpha of CutMix: images get a piece of another; 0: not.")]
    input_size: Annotated[
        str | None,
        typer.Option(
            metavar="C,H,W",
            callback=parse_input_size,
            help="For folders. By default the size that the network is made for.",
        ),
    ]
    bad_images: BadImagesOption
    imbalance: Annotated[
        Imbalance, typer.Option(help="Let rare classes count more in the loss (weights), or be drawn more (sampler).")
    ]
    workers: Workers
    checkpoint_every_steps: Annotated[
        int, typer.Option(help="Save the state this often besides after each epoch; 0: no.")
    ]
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")]
    device: Annotated[Device, typer.Option(help="Where to compute.")]
    mixed_precision: Annotated[Precision, typer.Option(help="Train in 16 bits where that is safe; fp16 needs a GPU.")]
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Lay the images' channels last in memory: faster on many devices.")
    ]
    track: Annotated[Tracker, typer.Option(help="Also send what is measured to this tracker.")]


def takes_run_options(defaults: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a verb that ends with `**options: Unpack[RunOptions]` show each of them to typer as a parameter of its own.

    `defaults` stand before those of TrainSettings.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def flat(**given: Any) -> None:  # typer calls by name
            verb(**given)

        own = list(inspect.signature(verb).parameters.values())[:-1]
        parameters = sorted(
            [*own, *_parameters(defaults)], key=lambda each: each.default is not inspect.Parameter.empty
        )
        flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        flat.__annotations__ = {each.name: each.annotation for each in parameters}
        return flat

    return decorate


def settings_from(network: str, data: str, options: RunOptions, transfer: Transfer | None = None) -> TrainSettings:
    """What a verb's options ask for."""
    values: dict[str, Any] = {RENAMED.get(name, name): value for name, value in options.items()}
    return TrainSettings(network=network, data=data, transfer=transfer, **values)


def _parameters(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    standard = {each.name: each.default for each in fields(TrainSettings)} | dict(defaults)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=standard[RENAMED.get(name, name)], annotation=annotation
        )
        for name, annotation in get_type_hints(RunOptions, include_extras=True).items()
    ]
