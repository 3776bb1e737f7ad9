"""The images on which variants are calibrated and evaluated.

Requires: a dataset for trained weights, the run's own or that of --calibration-data.
Ensures: training images for calibration, validation images for the choice of the calibration method, and test images
for the evaluation; the same in every run. A network with random weights may be evaluated on noise; its report states
that it is untrained.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from export.arrays import Images
from export.errors import CalibrationDataError
from export.variants.settings import SERVABLE, VariantSettings
from protos.keys import MULTI_LABEL
from zoo import LoadedNetwork
from zoo.data.dataset import Dataset
from zoo.data.kfold import fold_of
from zoo.data.registry import find_data, redacted_name
from zoo.data.splits import Split
from zoo.networks.preprocessing import Preprocessing

NOISE = "noise"
NOISE_IMAGES = 32
READ_BATCH_SIZE = 64

Targets = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images from one split.

    Attributes:
        images: uint8, (N, H, W, C).
        targets: Their classes; None if the dataset's classes are not the network's.
        split_size: Number of images in the complete split.
    """

    images: Images
    targets: Targets | None
    split_size: int


@dataclass(frozen=True, eq=False)
class EvalData:
    """The images for calibrating and evaluating the variants of one network.

    Attributes:
        dataset: Name of the dataset without private parts, or "noise".
        is_trained: Whether the network has trained weights.
        calibration: Training images.
        validation: Validation images, on which the calibration method is chosen.
        test: Test images.
        unlabelled_reason: Why accuracy cannot be measured; empty if it can.
        multi_label: Whether an image may have several classes, each of which is then a binary prediction.
    """

    dataset: str
    is_trained: bool
    calibration: ImageSet
    validation: ImageSet
    test: ImageSet
    unlabelled_reason: str = ""
    multi_label: bool = False


def load_eval_data(loaded: LoadedNetwork, settings: VariantSettings) -> EvalData:
    """Load the images. Raises: CalibrationDataError if trained weights have no suitable dataset."""
    name = settings.calibration_data or loaded.data
    if name:
        return _from_dataset(name, loaded, settings)
    is_trained = loaded.weights.kind != "random"
    if is_trained and set(settings.kinds) & set(SERVABLE):
        raise CalibrationDataError(
            f"{loaded.name} has {loaded.weights.kind} weights, but no dataset to evaluate its variants "
            f"{', '.join(kind for kind in settings.kinds if kind in SERVABLE)}: name one with --calibration-data."
        )
    calibration, validation, test = (_noise(loaded.preprocessing, seed) for seed in range(3))
    reason = "no dataset" if is_trained else "untrained"
    return EvalData(NOISE, is_trained, calibration, validation, test, reason, loaded.task == MULTI_LABEL)


def _from_dataset(name: str, loaded: LoadedNetwork, settings: VariantSettings) -> EvalData:
    is_own = name == loaded.data
    dataset = find_data(name, bad_images=loaded.bad_images if is_own else "fail").for_network(loaded.preprocessing)
    if loaded.fold and is_own:
        dataset = fold_of(dataset, *loaded.fold)  # the test split is then the held-out fold of the run
    if tuple(dataset.input_size) != tuple(loaded.preprocessing.input_size):
        raise CalibrationDataError(
            f"{redacted_name(name)} has images of (channels, height, width) {tuple(dataset.input_size)}, but "
            f"{loaded.name} accepts {tuple(loaded.preprocessing.input_size)}: name another with --calibration-data."
        )
    is_trained = loaded.weights.kind != "random"
    reason = _unlabelled_reason(dataset, loaded) if is_trained else "untrained"
    splits = (
        (dataset.train, settings.calibration_images),
        (dataset.val, settings.test_images),
        (dataset.test, settings.test_images),
    )
    calibration, validation, test = (
        _sample(dataset, split, max_images, labelled=not reason) for split, max_images in splits
    )
    return EvalData(redacted_name(name), is_trained, calibration, validation, test, reason, loaded.task == MULTI_LABEL)


def _unlabelled_reason(dataset: Dataset, loaded: LoadedNetwork) -> str:
    is_same_task = dataset.labels == loaded.labels and dataset.task == loaded.task
    return "" if is_same_task else f"{dataset.name}'s classes are not the network's"


def _sample(dataset: Dataset, split: Split, max_images: int, *, labelled: bool) -> ImageSet:
    """Return a random sample of `split`, the same in every run."""
    if len(split) == 0:
        raise CalibrationDataError(
            f"{dataset.name} has an empty split, but variants need training, validation and test images."
        )
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:max_images])
    indices = torch.from_numpy(chosen)
    images = np.concatenate([batch.numpy() for batch in split.batches(torch.split(indices, READ_BATCH_SIZE))])
    return ImageSet(images, split.targets[indices].numpy() if labelled else None, len(split))


def _noise(preprocessing: Preprocessing, seed: int) -> ImageSet:
    channels, height, width = preprocessing.input_size
    images = np.random.default_rng(seed).integers(0, 256, (NOISE_IMAGES, height, width, channels), np.uint8)
    return ImageSet(images, None, NOISE_IMAGES)
