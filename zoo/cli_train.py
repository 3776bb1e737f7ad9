"""The verbs that make runs: `train` and `tune`.

What needs torch is imported inside them, so that help comes at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli_settings import Config
from zoo.settings import BadImages, Device, Head, Schedule, TrainSettings, Transfer

DATA_HELP = "The data set: digits, signal or folder:PATH, with a folder of pictures for each class."
BAD_IMAGES_HELP = "What to do about files that are no pictures: fail, or leave them out. Either way they are named."
WORKERS_HELP = "Processes that decode the pictures of a folder."

if TYPE_CHECKING:
    from zoo.train import TrainResult

DataOption = Annotated[str, typer.Option(help=DATA_HELP)]
Out = Annotated[Path, typer.Option(help="The new run's folder.")]
Epochs = Annotated[int, typer.Option(help="How often each training image is seen.")]
BatchSize = Annotated[int, typer.Option(help="Images per step.")]
OptimizerName = Annotated[str, typer.Option(help="By timm's name: adamw, sgd, lamb, ...")]
Rate = Annotated[float, typer.Option(help="The learning rate at its peak.")]
WeightDecay = Annotated[float, typer.Option(help="Of weights, not of biases and norms.")]
LabelSmoothing = Annotated[float, typer.Option(help="Share of the target spread over all classes.")]
DropRate = Annotated[float, typer.Option(help="Dropout before the classifier.")]
LayerDecay = Annotated[float, typer.Option(help="Each layer's learning rate as a share of that of the one after it.")]
EmaDecay = Annotated[float, typer.Option(help="Keep the moving average of the weights, such as 0.999; 0: not.")]
MaxShift = Annotated[int, typer.Option(help="Move training images by up to this many pixels.")]
Flip = Annotated[
    float | None, typer.Option(help="Share of training pictures to mirror. By default 0.5 for folders, else 0.")
]
MinCrop = Annotated[
    float | None,
    typer.Option(help="Least share of its area that a random crop keeps. By default 0.35 for folders, else 1."),
]
RandAugment = Annotated[int, typer.Option(help="Magnitude of RandAugment, to 10; 0: none.")]
MixupOption = Annotated[float, typer.Option(help="Alpha of mixup: pairs of pictures are blended; 0: not.")]
Cutmix = Annotated[float, typer.Option(help="Alpha of CutMix: pictures get a piece of another; 0: not.")]
InputSize = Annotated[
    str | None, typer.Option(metavar="C,H,W", help="For folders. By default the size that the net is made for.")
]
BadImagesOption = Annotated[BadImages, typer.Option(help=BAD_IMAGES_HELP)]
Workers = Annotated[int, typer.Option(help=WORKERS_HELP)]
CheckpointEvery = Annotated[int, typer.Option(help="Save the state this often besides after each epoch; 0: no.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that stopped in this folder.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same weights.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]


def train(
    net: Annotated[str, typer.Argument(help="A net of the catalog, such as convnet4, or any of timm's.")],
    data: DataOption,
    out: Out,
    epochs: Epochs = TrainSettings.epochs,
    batch_size: BatchSize = TrainSettings.batch_size,
    optimizer: OptimizerName = TrainSettings.optimizer,
    lr: Rate = TrainSettings.lr,
    weight_decay: WeightDecay = TrainSettings.weight_decay,
    layer_decay: LayerDecay = TrainSettings.layer_decay,
    ema_decay: EmaDecay = TrainSettings.ema_decay,
    label_smoothing: LabelSmoothing = TrainSettings.label_smoothing,
    drop_rate: DropRate = TrainSettings.drop_rate,
    max_shift: MaxShift = TrainSettings.max_shift_px,
    flip: Flip = TrainSettings.flip,
    min_crop: MinCrop = TrainSettings.min_crop,
    rand_augment: RandAugment = TrainSettings.rand_augment,
    mixup: MixupOption = TrainSettings.mixup,
    cutmix: Cutmix = TrainSettings.cutmix,
    input_size: InputSize = None,
    bad_images: BadImagesOption = TrainSettings.bad_images,
    workers: Workers = TrainSettings.workers,
    checkpoint_every_steps: CheckpointEvery = TrainSettings.checkpoint_every_steps,
    resume: Resume = False,
    seed: Seed = TrainSettings.seed,
    device: DeviceOption = TrainSettings.device,
    config: Config = None,
) -> None:
    """Train a net from scratch.

    The run's folder receives its settings, one line of metrics an epoch, the last checkpoint and the best one by
    validation accuracy. The test split is looked at once, at the end. A run that was stopped, by Ctrl-C or by worse,
    goes on with the same command and `--resume`, to the same weights bit by bit.

    Example: `zoonnx train convnet4 --data digits --out runs/digits`
    """
    settings = TrainSettings(
        net=net,
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        ema_decay=ema_decay,
        label_smoothing=label_smoothing,
        drop_rate=drop_rate,
        max_shift_px=max_shift,
        flip=flip,
        min_crop=min_crop,
        rand_augment=rand_augment,
        mixup=mixup,
        cutmix=cutmix,
        input_size=_size(input_size),
        bad_images=bad_images,
        workers=workers,
        checkpoint_every_steps=checkpoint_every_steps,
        seed=seed,
        device=device,
    )
    _train(settings, out, resume)


def tune(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE|RUN", help="A net by name, or a run's folder.")],
    data: DataOption,
    out: Out,
    head: Annotated[Head, typer.Option(help="What classifies the backbone's features.")] = Transfer.head,
    schedule: Annotated[
        Schedule | None,
        typer.Option(help="What learns: the head; the head, then all (default); stage by stage from the last one."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Train the head alone, on features that are computed once and stored.")
    ] = False,
    pretrained_file: Annotated[
        Path | None, typer.Option(help="Weights of the backbone. By default its own, from its hub or its run.")
    ] = None,
    epochs: Epochs = TrainSettings.epochs,
    batch_size: BatchSize = TrainSettings.batch_size,
    optimizer: OptimizerName = TrainSettings.optimizer,
    lr: Rate = 2e-3,
    weight_decay: WeightDecay = 0.05,
    layer_decay: LayerDecay = 0.75,
    ema_decay: EmaDecay = TrainSettings.ema_decay,
    label_smoothing: LabelSmoothing = TrainSettings.label_smoothing,
    drop_rate: DropRate = TrainSettings.drop_rate,
    max_shift: MaxShift = TrainSettings.max_shift_px,
    flip: Flip = TrainSettings.flip,
    min_crop: MinCrop = TrainSettings.min_crop,
    rand_augment: RandAugment = TrainSettings.rand_augment,
    mixup: MixupOption = TrainSettings.mixup,
    cutmix: Cutmix = TrainSettings.cutmix,
    input_size: InputSize = None,
    bad_images: BadImagesOption = TrainSettings.bad_images,
    workers: Workers = TrainSettings.workers,
    checkpoint_every_steps: CheckpointEvery = TrainSettings.checkpoint_every_steps,
    resume: Resume = False,
    seed: Seed = TrainSettings.seed,
    device: DeviceOption = TrainSettings.device,
    config: Config = None,
) -> None:
    """Put a new head on a pretrained backbone, and train them on your data.

    `--probe` stores the features beside the run, in `.features`, for as long as data and backbone are the same.
    What is frozen stays as it is, BatchNorm's statistics included. The run's folder is as that of `train`; `eval` and
    `export` take it.

    Example: zoonnx tune resnet18 --data folder:flowers --out runs/flowers
    """
    settings = TrainSettings(
        net=backbone,
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        ema_decay=ema_decay,
        label_smoothing=label_smoothing,
        drop_rate=drop_rate,
        max_shift_px=max_shift,
        flip=flip,
        min_crop=min_crop,
        rand_augment=rand_augment,
        mixup=mixup,
        cutmix=cutmix,
        input_size=_size(input_size),
        bad_images=bad_images,
        workers=workers,
        checkpoint_every_steps=checkpoint_every_steps,
        seed=seed,
        device=device,
        transfer=Transfer(
            head=head,
            schedule=schedule or ("probe" if probe else Transfer.schedule),
            cached=probe,
            pretrained_file=str(pretrained_file) if pretrained_file else None,
        ),
    )
    _train(settings, out, resume)


def show_rows(rows: dict[str, str]) -> None:
    """Names and values as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


def left_out(skipped: tuple[str, ...]) -> dict[str, str]:
    """Bad images as a row of the table, if there are any."""
    return {"left out": "\n".join(skipped)} if skipped else {}


def _train(settings: TrainSettings, run: Path, resume: bool) -> None:
    from zoo.progress import ProgressBar
    from zoo.train import train as train_net

    with ProgressBar(settings.epochs) as progress:
        result = train_net(settings, run, progress, resume=resume)
    _show_result(result, run)


def _show_result(result: "TrainResult", run: Path) -> None:
    rows = {
        "best epoch": str(result.best.epoch),
        "validation accuracy": f"{result.best.val_accuracy:.2%}",
        "test accuracy": f"{result.test_accuracy:.2%}",
        "time": f"{result.seconds:.1f} s",
        "weights": str(run / "best" / "model.safetensors"),
    }
    show_rows(rows | left_out(result.skipped))


def _size(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    from zoo.subject import parse_size

    size = parse_size(text)
    return (size[0], size[1], size[2]) if len(size) == 3 else (size[0], 1, size[1])
