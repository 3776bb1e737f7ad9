"""The options that `train` and `tune` share: their names, types and help texts.

A new setting is one field of TrainSettings and one line of RunOptions; both verbs, the environment and the config file
then accept it.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

import typer

from zoo.geometry.input_size import parse_input_size
from zoo.settings import BadImages, Device, Imbalance, Precision, Tracker, TrainSettings, Transfer, TuneSettings

TUNE_DEFAULTS = {name: getattr(TuneSettings, name) for name in ("lr", "weight_decay", "layer_decay")}
RENAMED = {"max_shift": "max_shift_px"}  # option: setting, where the names differ

BadImagesOption = Annotated[
    BadImages, typer.Option(help="Fail on unreadable image files, or skip them. Either way they are listed.")
]
Workers = Annotated[int, typer.Option(help="Processes that decode the images of a folder.")]
DataOption = Annotated[
    str,
    typer.Option(help="Dataset: digits, signal, folder:PATH, torchvision:NAME or hf:NAME; see docs/data.md."),
]
Out = Annotated[Path, typer.Option(help="Folder of the new run.")]
Folds = Annotated[
    int,
    typer.Option(help="K-fold cross-validation: train K runs, RUN/fold-1 to RUN/fold-K. 0: a single run."),
]
FindLr = Annotated[
    bool,
    typer.Option(
        "--find-lr",
        help="Run a range test instead of training; suggest a learning rate and plot the test to RUN.lr.png.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the stopped run in this folder.")]


class RunOptions(TypedDict):
    """Options of both verbs besides the network, the data and the run's folder; defaults come from TrainSettings."""

    epochs: Annotated[int, typer.Option(help="Passes over the training images.")]
    batch_size: Annotated[int, typer.Option(help="Images per optimiser step, over all processes.")]
    accumulate_steps: Annotated[
        int, typer.Option(help="Gradient accumulation steps per batch, for batches that exceed the memory.")
    ]
    patience: Annotated[
        int, typer.Option(help="Stop after this many epochs without improvement; 0 disables early stopping.")
    ]
    optimizer: Annotated[str, typer.Option(help="timm's name of the optimizer: adamw, sgd, lamb, ...")]
    lr: Annotated[float, typer.Option(help="Peak learning rate.")]
    weight_decay: Annotated[float, typer.Option(help="Decay of weights; biases and norms are exempt.")]
    layer_decay: Annotated[float, typer.Option(help="Learning rate of each layer as a multiple of the next layer's.")]
    ema_decay: Annotated[
        float,
        typer.Option(help="Decay of an exponential moving average of the weights, such as 0.999; 0 disables it."),
    ]
    clip_grad_norm: Annotated[float, typer.Option(help="Clip the gradient norm to this value; 0 disables clipping.")]
    label_smoothing: Annotated[float, typer.Option(help="Share of the target that is spread over all classes.")]
    drop_rate: Annotated[float, typer.Option(help="Dropout probability before the classifier.")]
    max_shift: Annotated[
        int, typer.Option(help="Shift training images at random by up to this many pixels along each axis.")
    ]
    flip: Annotated[
        float | None,
        typer.Option(help="Probability of mirroring a training image. Default: 0.5 for folders, else 0."),
    ]
    min_crop: Annotated[
        float | None,
        typer.Option(help="Smallest share of the image area in a random crop. Default: 0.35 for folders, else 1."),
    ]
    rand_augment: Annotated[int, typer.Option(help="Magnitude of RandAugment, up to 10; 0 disables it.")]
    mixup: Annotated[float, typer.Option(help="Alpha of mixup, which blends pairs of images; 0 disables it.")]
    cutmix: Annotated[
        float, typer.Option(help="Alpha of CutMix, which pastes a part of one image into another; 0 disables it.")
    ]
    input_size: Annotated[
        str | None,
        typer.Option(
            metavar="C,H,W",
            callback=parse_input_size,
            help="Input size for folders of images. Default: the network's own size.",
        ),
    ]
    bad_images: BadImagesOption
    imbalance: Annotated[
        Imbalance,
        typer.Option(
            help="Against class imbalance: give rare classes more weight in the loss, or sample them more often."
        ),
    ]
    workers: Workers
    checkpoint_every_steps: Annotated[
        int, typer.Option(help="Also save the run's state each time after this many steps; 0: after each epoch only.")
    ]
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same weights.")]
    device: Annotated[Device, typer.Option(help="Where to compute; auto selects the best available device.")]
    mixed_precision: Annotated[
        Precision, typer.Option(help="Train in 16 bits where that is numerically safe; fp16 needs a GPU.")
    ]
    channels_last: Annotated[
        bool,
        typer.Option("--channels-last", help="Store images with channels last in memory: faster on many devices."),
    ]
    track: Annotated[Tracker, typer.Option(help="Experiment tracker that also receives the metrics.")]


def takes_run_options(defaults: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Expand a verb's final `**options: Unpack[RunOptions]` into one parameter per option, which typer can read.

    `defaults` override those of TrainSettings.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def expanded(**arguments: Any) -> None:  # typer passes all arguments by name
            verb(**arguments)

        own_parameters = list(inspect.signature(verb).parameters.values())[:-1]
        parameters = sorted(
            [*own_parameters, *_option_parameters(defaults)],
            key=lambda parameter: parameter.default is not inspect.Parameter.empty,
        )
        expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return expanded

    return decorate


def settings_from(network: str, data: str, options: RunOptions, transfer: Transfer | None = None) -> TrainSettings:
    """Return the settings that a verb's options describe.

    Raises:
        SettingsError: An option is out of range.
    """
    values: dict[str, Any] = {RENAMED.get(name, name): value for name, value in options.items()}
    return TrainSettings(network=network, data=data, transfer=transfer, **values)


def _option_parameters(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    setting_defaults = {field.name: field.default for field in fields(TrainSettings)} | dict(defaults)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=setting_defaults[RENAMED.get(name, name)],
            annotation=annotation,
        )
        for name, annotation in get_type_hints(RunOptions, include_extras=True).items()
    ]
