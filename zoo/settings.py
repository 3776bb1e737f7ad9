"""Settings of a training run, validated when they are created."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from zoo.errors import SettingsError, did_you_mean

Device = Literal["auto", "cpu", "cuda", "mps"]
SplitName = Literal["train", "val", "test"]
BadImages = Literal["fail", "skip"]
Imbalance = Literal["none", "weights", "sampler"]
Head = Literal["linear", "mlp", "conv1x1", "attention", "flat"]
HeadInit = Literal["random", "means"]
Schedule = Literal["probe", "head-then-all", "gradual"]
Precision = Literal["no", "fp16", "bf16"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow"]

NON_NEGATIVE = (
    "weight_decay",
    "max_shift_px",
    "workers",
    "checkpoint_every_steps",
    "mixup",
    "cutmix",
    "clip_grad_norm",
    "patience",
)
CHOICES = {
    "bad_images": get_args(BadImages),
    "device": get_args(Device),
    "imbalance": get_args(Imbalance),
    "mixed_precision": get_args(Precision),
    "track": get_args(Tracker),
}

MAX_FOLDS = 100


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How to reuse a pretrained backbone.

    Attributes:
        head: The new classifier, see zoo/transfer/heads.py.
        schedule: Which parameters are trained in which epoch, see zoo/transfer/freeze.py.
        cached: Compute the backbone's features once and train the head on them; requires the schedule "probe".
        pretrained_file: Weights of the backbone; None: those of its hub, or of the run that `network` names.
        head_init: "random", or "means": start from the mean features of each class (heads "linear" and "flat").
        cut_after: Path of the backbone's last layer; all layers after it are removed. None: keep all layers.
    """

    head: Head = "linear"
    schedule: Schedule = "head-then-all"
    cached: bool = False
    pretrained_file: str | None = None
    head_init: HeadInit = "random"
    cut_after: str | None = None

    def __post_init__(self) -> None:
        for name, literal in (("head", Head), ("schedule", Schedule), ("head_init", HeadInit)):
            value, choices = getattr(self, name), get_args(literal)
            _check(name, value in choices, f"one of {', '.join(choices)}", value)
        _check("cut_after", self.cut_after != "", "the name of a layer", repr(self.cut_after))
        if self.head_init == "means":
            _check("head", self.head in ("linear", "flat"), "linear or flat with head_init means", self.head)
        if self.cached:
            _check("schedule", self.schedule == "probe", "probe if features are cached", self.schedule)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that determines the result of a training run.

    The same settings give the same weights bit for bit, on the same CPU with the same number of threads.
    The defaults were tuned on digits by cross-validation without its test split, where a `max_shift_px` of 1 cost
    0.3 points of accuracy in ten epochs.

    Attributes:
        network: Name for `zoo.create_model`; with `transfer` the backbone, by name or by the folder of its run.
        data: Name for `zoo.find_data`.
        epochs: Passes over the training images, 1 or more.
        batch_size: Images per optimiser step, over all processes.
        optimizer: Name for timm's `create_optimizer_v2`.
        lr: Peak learning rate of the schedule, above 0.
        weight_decay: Decay of weights, not of biases and norms, 0 or more.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1).
        drop_rate: Dropout probability before the classifier, in [0, 1).
        max_shift_px: Largest random shift of a training image along each axis, in pixels. 0: none.
        flip: Probability of mirroring a training image, in [0, 1]. None: the dataset's own.
        min_crop: Smallest share of the image area that a random crop keeps, in (0, 1]. None: the dataset's own.
        rand_augment: Magnitude of timm's RandAugment, 0 to 10. 0: none.
        mixup: Alpha of timm's mixup, which blends pairs of images. 0: none.
        cutmix: Alpha of timm's CutMix, which pastes a part of one image into another. 0: none.
        input_size: (C, H, W). None: the dataset's size, or else the network's own.
        bad_images: "fail" on unreadable image files, or "skip" them.
        imbalance: "weights" gives rare classes more weight in the loss, "sampler" draws them more often.
        workers: Processes that decode images of a folder; no effect on the weights. 0: decode in the main process.
        checkpoint_every_steps: Steps between saves of the run's state, besides those after each epoch. 0: none.
        seed: Seed of all randomness, at least 0 and below 2**32.
        device: Where to compute. "auto": the best device of this machine.
        layer_decay: Learning rate of a layer as a multiple of that of the next layer, in (0, 1].
        ema_decay: Decay of the exponential moving average that is evaluated and saved instead of the trained
            weights, in [0, 1). 0: no average.
        mixed_precision: 16-bit format of the forward pass; "fp16" requires a GPU. "no": float32.
        accumulate_steps: Gradient accumulation steps per batch, 1 or more. Changes results by rounding only, except
            that BatchNorm computes its statistics per accumulation step (and per process).
        clip_grad_norm: Largest L2 norm of the gradient; larger ones are scaled down. 0: no clipping.
        channels_last: Store images and weights with channels last in memory.
        patience: End the run after this many epochs without improvement. 0: never.
        track: Experiment tracker that receives the metrics besides RUN/metrics.jsonl. "none": no tracker.
        transfer: Reuse of a pretrained backbone. None: train from scratch.
        folds: Number of cross-validation folds, 2 to 100. 0: a single run on the dataset's own splits.
        fold: The fold to validate on, 1 to `folds`; the run trains on the others. 0: no cross-validation.
    """

    network: str
    data: str
    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 1e-2
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    drop_rate: float = 0.0
    max_shift_px: int = 0
    flip: float | None = None
    min_crop: float | None = None
    rand_augment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    input_size: tuple[int, int, int] | None = None
    bad_images: BadImages = "fail"
    imbalance: Imbalance = "none"
    workers: int = 2
    checkpoint_every_steps: int = 0
    seed: int = 0
    device: Device = "auto"
    layer_decay: float = 1.0
    ema_decay: float = 0.0
    mixed_precision: Precision = "no"
    accumulate_steps: int = 1
    clip_grad_norm: float = 0.0
    channels_last: bool = False
    patience: int = 0
    track: Tracker = "none"
    transfer: Transfer | None = None
    folds: int = 0
    fold: int = 0

    def __post_init__(self) -> None:
        self._check_folds()
        for name in ("epochs", "batch_size", "accumulate_steps"):
            _check(name, getattr(self, name) >= 1, "1 or more", getattr(self, name))
        for name in NON_NEGATIVE:
            _check(name, getattr(self, name) >= 0, "0 or more", getattr(self, name))
        for name in ("label_smoothing", "drop_rate", "ema_decay"):
            _check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1", getattr(self, name))
        _check("layer_decay", 0 < self.layer_decay <= 1, "greater than 0 and at most 1", self.layer_decay)
        self._check_images()
        _check("lr", 0 < self.lr < float("inf"), "greater than 0", self.lr)
        _check("seed", 0 <= self.seed < 2**32, "at least 0 and less than 2**32", self.seed)
        for name, choices in CHOICES.items():
            _check(name, getattr(self, name) in choices, f"one of {', '.join(choices)}", getattr(self, name))
        expected = f"{self.accumulate_steps} or more, at least one image per accumulation step"
        _check("batch_size", self.batch_size >= self.accumulate_steps, expected, self.batch_size)

    @property
    def mixes_images(self) -> bool:
        """Whether mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0

    def _check_folds(self) -> None:
        if self.folds or self.fold:
            _check("folds", 2 <= self.folds <= MAX_FOLDS, f"from 2 to {MAX_FOLDS}", self.folds)
            _check("fold", 1 <= self.fold <= self.folds, f"from 1 to {self.folds}", self.fold)

    def _check_images(self) -> None:
        if self.transfer is not None and self.transfer.cached:
            for name in ("flip", "min_crop", "max_shift_px", "rand_augment", "mixup", "cutmix"):
                value = getattr(self, name)
                _check(
                    name,
                    not value,
                    "omitted if features are cached, since they come from unaugmented images",
                    value,
                )
        _check("rand_augment", 0 <= self.rand_augment <= 10, "from 0 to 10", self.rand_augment)
        if self.mixes_images:
            _check(
                "batch_size",
                self.batch_size % 2 == 0,
                "even if images are mixed in pairs",
                self.batch_size,
            )
        if self.flip is not None:
            _check("flip", 0 <= self.flip <= 1, "at least 0 and at most 1", self.flip)
        if self.min_crop is not None:
            _check("min_crop", 0 < self.min_crop <= 1, "greater than 0 and at most 1", self.min_crop)
        if self.input_size is not None:
            is_valid = len(self.input_size) == 3 and min(self.input_size) >= 1
            _check("input_size", is_valid, "channels, height and width, each 1 or more", self.input_size)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Restore settings written by `to_json`.

        Raises:
            SettingsError: A setting is unknown, missing or out of its range.
        """
        input_size, transfer = values.get("input_size"), values.get("transfer")
        _check_names(cls, values)
        _check_names(Transfer, transfer or {})
        try:
            typed = {
                **({"input_size": tuple(input_size)} if input_size else {}),
                **({"transfer": Transfer(**transfer)} if transfer else {}),
            }
            return cls(**{**values, **typed})
        except TypeError as error:
            raise SettingsError(f"a setting is missing or of the wrong type: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values by name."""
        return asdict(self)


def _check_names(settings_class: type[TrainSettings] | type[Transfer], values: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(settings_class)]
    for name in values:
        if name not in names:
            raise SettingsError(f"there is no setting '{name}'{did_you_mean(name, names)}")


def _check(name: str, is_valid: bool, expected: str, value: object) -> None:
    if not is_valid:
        raise SettingsError(f"{name} must be {expected}; got {value}")


@dataclass(frozen=True, kw_only=True)
class TuneSettings(TrainSettings):
    """Settings with the defaults of `zoonnx tune`: a pretrained backbone, `network`, under a new head."""

    lr: float = 2e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    transfer: Transfer | None = Transfer()
