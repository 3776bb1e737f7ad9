"""The images that a variant is made and judged by.

Requires: trained weights come with a data set, the run's own or one that the user names.
Ensures: calibration sees training images, the choice between methods validation images, the verdict test
images; the same ones in every run. A network with random weights may have noise, and then says that it is untrained.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from export.errors import CalibrationDataError
from export.variants.settings import SERVABLE, VariantSettings
from zoo import LoadedNetwork
from zoo.data.kfold import fold_of
from zoo.data.registry import Dataset, find_data, redacted_name
from zoo.data.splits import Split
from zoo.networks.preprocessing import Preprocessing

NOISE = "noise"
NOISE_IMAGES = 32
BATCH = 64

Images = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Uint8 images (N, H, W, C) with their classes, None where those are not the network's; `of` stand in the split."""

    images: Images
    targets: Targets | None
    of: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """`dataset` is public, or `noise`; `unlabelled` says why there is no accuracy, empty where there is.

    `several` is whether an image may be of several classes: right is then each yes and each no.
    """

    dataset: str
    trained: bool
    calibration: ImageSet
    choosing: ImageSet
    test: ImageSet
    unlabelled: str = ""
    several: bool = False


def gather(loaded: LoadedNetwork, settings: VariantSettings) -> Evidence:
    """Read the images. Raises: CalibrationDataError when there are none that mean something to these weights."""
    name = settings.calibration_data or loaded.data
    if name:
        return _of_dataset(name, loaded, settings)
    trained = loaded.weights.kind != "random"
    if trained and set(settings.kinds) & set(SERVABLE):
        raise CalibrationDataError(
            f"{loaded.name} has {loaded.weights.kind} weights, and no data set is known to judge "
            f"{', '.join(kind for kind in settings.kinds if kind in SERVABLE)} by: name one with --calibration-data."
        )
    calibration, choosing, test = (_noise(loaded.preprocessing, seed) for seed in range(3))
    why = "no data set" if trained else "untrained"
    return Evidence(NOISE, trained, calibration, choosing, test, why, loaded.task == "multi-label")


def _of_dataset(name: str, loaded: LoadedNetwork, settings: VariantSettings) -> Evidence:
    data = find_data(name).for_net(loaded.preprocessing)
    if loaded.fold and name == loaded.data:
        data = fold_of(data, *loaded.fold)  # what the run held out is what it has not seen
    if tuple(data.input_size) != tuple(loaded.preprocessing.input_size):
        raise CalibrationDataError(
            f"{redacted_name(name)} has images of (channels, height, width) {tuple(data.input_size)}, but "
            f"{loaded.name} takes {tuple(loaded.preprocessing.input_size)}: name another with --calibration-data."
        )
    trained = loaded.weights.kind != "random"
    unlabelled = _why_unlabelled(data, loaded, trained)
    splits = (
        (data.train, settings.calibration_pictures),
        (data.val, settings.test_images),
        (data.test, settings.test_images),
    )
    calibration, choosing, test = (_some(data, split, most, labelled=not unlabelled) for split, most in splits)
    several = loaded.task == "multi-label"
    return Evidence(redacted_name(name), trained, calibration, choosing, test, unlabelled, several)


def _why_unlabelled(data: Dataset, loaded: LoadedNetwork, trained: bool) -> str:
    if not trained:
        return "untrained"
    fits = data.labels == loaded.labels and data.task == loaded.task
    return "" if fits else f"{data.name}'s classes are not the network's"


def _some(data: Dataset, split: Split, most: int, *, labelled: bool) -> ImageSet:
    """At most so many images of `split`, drawn without order in mind, the same in every run."""
    if len(split) == 0:
        raise CalibrationDataError(f"{data.name} has an empty split: variants need training, validation and test.")
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:most])
    indices = torch.from_numpy(chosen)
    images = np.concatenate([batch.numpy() for batch in split.batches(torch.split(indices, BATCH))])
    return ImageSet(images, split.targets[indices].numpy() if labelled else None, len(split))


def _noise(preprocessing: Preprocessing, seed: int) -> ImageSet:
    channels, height, width = preprocessing.input_size
    images = np.random.default_rng(seed).integers(0, 256, (NOISE_IMAGES, height, width, channels), np.uint8)
    return ImageSet(images, None, NOISE_IMAGES)
