"""What one training run is asked to do."""

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

NOT_NEGATIVE = (
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

MOST_FOLDS = 100


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How a backbone's knowledge is used: the new head, what learns when (see freeze.py), where its weights are.

    `cached` computes the backbone's features once (see probe.py), which goes with the schedule `probe` alone.
    `pretrained_file` is None for the backbone's own weights: from its hub, or from the run that it is.
    `head_init` "means" begins from the classes' mean features (see head_means.py); `cut_after` names the backbone's
    last layer (see cut.py), None for all of them.
    """

    head: Head = "linear"
    schedule: Schedule = "head-then-all"
    cached: bool = False
    pretrained_file: str | None = None
    head_init: HeadInit = "random"
    cut_after: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("head", Head), ("schedule", Schedule), ("head_init", HeadInit)):
            value, choices = getattr(self, name), get_args(kind)
            _check(name, value in choices, f"one of {', '.join(choices)}", value)
        _check("cut_after", self.cut_after != "", "the name of a layer", repr(self.cut_after))
        if self.head_init == "means":
            _check("head", self.head in ("linear", "flat"), "linear or flat where it begins from means", self.head)
        if self.cached:
            _check("schedule", self.schedule == "probe", "probe where features are cached", self.schedule)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training run: the same settings on the same CPU with as many threads give the same weights, bit for bit.

    `network` is a name of `zoo.create_model`, `data` of `zoo.find_data`, `optimizer` of timm's `create_optimizer_v2`.
    `flip` is the share of training images that are mirrored, `min_crop` the least share of its area that a random
    crop keeps; None is what suits the data. `rand_augment` is RandAugment's magnitude, `mixup` and `cutmix` the alphas
    by which pairs of images are mixed, all by timm, 0 for none. `input_size` is (C, H, W), None the data's or else
    the network's own.
    Against `imbalance`, "weights" lets rare classes count more in the loss, and "sampler" draws them more often.
    `workers` processes decode the images of a folder, without any effect on the weights. The run's state is saved
    after each epoch and, if not 0, every `checkpoint_every_steps`.
    `transfer` is None for a network from scratch; with it `network` is the backbone, by name or by the folder of its run.
    Each layer learns at `layer_decay` times the rate of the one after it. With an `ema_decay` the run's weights are the
    exponential moving average of those that learn.
    With `folds` the run is one of that many: it validates on `fold`, counted from 1, and trains on the others.
    `batch_size` is that of a step over all processes; each computes its part of it in `accumulate_steps` pieces, so
    neither number changes what is learned but for rounding, and but for BatchNorm, which looks at one piece at a time.
    Gradients longer than `clip_grad_norm`, if not 0, are cut to that length. With a `patience` the run ends after so
    many epochs without a better one. `track` sends what is measured to a tracker besides RUN/metrics.jsonl.
    `lr` is the peak of its schedule, `max_shift_px` how far training moves each image at random in each direction,
    `device` "auto" the best that this machine has. The defaults were tuned on digits by cross-validation
    without its test split, where a shift of 1 cost 0.3 points of accuracy in ten epochs.
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
        for name in NOT_NEGATIVE:
            _check(name, getattr(self, name) >= 0, "0 or more", getattr(self, name))
        for name in ("label_smoothing", "drop_rate", "ema_decay"):
            _check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1", getattr(self, name))
        _check("layer_decay", 0 < self.layer_decay <= 1, "greater than 0 and at most 1", self.layer_decay)
        self._check_images()
        _check("lr", 0 < self.lr < float("inf"), "greater than 0", self.lr)
        _check("seed", 0 <= self.seed < 2**32, "at least 0 and less than 2**32", self.seed)
        for name, choices in CHOICES.items():
            _check(name, getattr(self, name) in choices, f"one of {', '.join(choices)}", getattr(self, name))
        least = self.accumulate_steps
        _check("batch_size", self.batch_size >= least, f"{least} or more, an image for each piece", self.batch_size)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def _check_folds(self) -> None:
        if self.folds or self.fold:
            _check("folds", 2 <= self.folds <= MOST_FOLDS, f"from 2 to {MOST_FOLDS}", self.folds)
            _check("fold", 1 <= self.fold <= self.folds, f"from 1 to {self.folds}", self.fold)

    def _check_images(self) -> None:
        if self.transfer is not None and self.transfer.cached:
            for name in ("flip", "min_crop", "max_shift_px", "rand_augment", "mixup", "cutmix"):
                value = getattr(self, name)
                _check(name, not value, "left out where features are cached: no image changes", value)
        _check("rand_augment", 0 <= self.rand_augment <= 10, "from 0 to 10", self.rand_augment)
        if self.mixes:
            _check("batch_size", self.batch_size % 2 == 0, "even where images are mixed in pairs", self.batch_size)
        if self.flip is not None:
            _check("flip", 0 <= self.flip <= 1, "at least 0 and at most 1", self.flip)
        if self.min_crop is not None:
            _check("min_crop", 0 < self.min_crop <= 1, "greater than 0 and at most 1", self.min_crop)
        if self.input_size is not None:
            sound = len(self.input_size) == 3 and min(self.input_size) >= 1
            _check("input_size", sound, "channels, height and width, each 1 or more", self.input_size)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            SettingsError: a setting is unknown, missing or out of its range.
        """
        size, transfer = values.get("input_size"), values.get("transfer")
        _check_names(cls, values)
        _check_names(Transfer, transfer or {})
        try:
            rebuilt = {
                **({"input_size": tuple(size)} if size else {}),
                **({"transfer": Transfer(**transfer)} if transfer else {}),
            }
            return cls(**{**values, **rebuilt})
        except TypeError as error:
            raise SettingsError(f"a setting is missing or of the wrong type: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by the settings' names."""
        return asdict(self)


def _check_names(kind: type[TrainSettings] | type[Transfer], values: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            raise SettingsError(f"there is no setting '{name}'{did_you_mean(name, names)}")


def _check(name: str, holds: bool, expected: str, value: object) -> None:
    if not holds:
        raise SettingsError(f"{name} must be {expected}; got {value}")
