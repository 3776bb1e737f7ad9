"""Classification of image files by a served model, batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serve.client import images
from serve.client.image_input import image_preprocessing
from serve.client.model_info import ModelInfo
from serve.client.preprocessing import Preprocessing
from serve.client.sync import Client
from serve.errors import SettingsError, UnsupportedModelError
from serve.wire.tensors import Array

OUTPUTS = ("logits", "probabilities")
THRESHOLD = 0.5  # a label is predicted if its probability exceeds this


@dataclass(frozen=True)
class Prediction:
    """A model's outputs for one image.

    Attributes:
        file: The path of the image.
        label: The most probable class; its index if the model has no labels.
        index: The index of that class.
        probability: The probability of that class, 0 to 1.
        runner_up: The second most probable class and its probability, as text; empty for a single class.
        logits: The logit of each class.
        probabilities: The probability of each class.
        labels: For a multi-label model, the labels with a probability above 0.5, the most probable first; else None.
    """

    file: str
    label: str
    index: int
    probability: float
    runner_up: str
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ClassificationReport:
    """The predictions for several images.

    Attributes:
        model: The model's name.
        version: The version that made the predictions.
        seconds: The time for all images, including reading and preparing them.
        predictions: One per image, in the order of the files.
    """

    model: str
    version: str
    seconds: float
    predictions: tuple[Prediction, ...]

    @property
    def images_per_s(self) -> float:
        return len(self.predictions) / self.seconds


def classify(
    client: Client, model: str, files: Sequence[Path], batch_size: int | None, advance: Callable[[int], None]
) -> ClassificationReport:
    """Classify image files with the newest version of `model`.

    Args:
        client: A connection to the server.
        model: The model's name.
        files: The image files.
        batch_size: Images per request; None for the model's largest batch.
        advance: Called after each request with the number of images in it.

    Raises:
        UnsupportedModelError: The model does not define its preprocessing, or lacks logits or probabilities.
        SettingsError: `batch_size` is larger than the model's largest batch, or less than 1.
        ImageError: A file is not an image.
    """
    info = client.model(model)
    preprocessing = classifier_preprocessing(info)
    size = _checked_batch_size(info, batch_size)
    start_s = time.perf_counter()
    predictions: list[Prediction] = []
    for first in range(0, len(files), size):
        batch = files[first : first + size]
        pixels = np.stack([images.load(file, preprocessing) for file in batch])
        outputs = client.infer(model, {info.inputs[0].name: pixels}, OUTPUTS, info.version)
        predictions.extend(_predictions(batch, info, outputs[OUTPUTS[0]], outputs[OUTPUTS[1]]))
        advance(len(batch))
    return ClassificationReport(model, info.version, time.perf_counter() - start_s, tuple(predictions))


def classifier_preprocessing(info: ModelInfo) -> Preprocessing:
    """Return the preprocessing of an image classifier.

    Raises:
        UnsupportedModelError: The model does not accept images, does not define its preprocessing, or lacks logits or
            probabilities.
    """
    preprocessing = image_preprocessing(info)
    missing = [name for name in OUTPUTS if name not in {spec.name for spec in info.outputs}]
    if missing:
        raise UnsupportedModelError(f"model '{info.name}' is not a classifier: it has no output '{missing[0]}'.")
    return preprocessing


def _checked_batch_size(info: ModelInfo, batch_size: int | None) -> int:
    largest = max(1, info.max_batch_size)
    if batch_size is not None and not 1 <= batch_size <= largest:
        raise SettingsError(f"model '{info.name}' accepts batches of 1 to {largest}; got --batch-size {batch_size}.")
    return batch_size or largest


def _predictions(files: Sequence[Path], info: ModelInfo, logits: Array, probabilities: Array) -> Iterator[Prediction]:
    for file, scores, shares in zip(files, logits.tolist(), probabilities.tolist(), strict=True):
        best, *others = sorted(range(len(shares)), key=lambda index: (-shares[index], index))
        label = _label(info, best)
        runner_up = f"{_label(info, others[0])} {shares[others[0]]:.1%}" if others else ""
        prediction = Prediction(str(file), label, best, shares[best], runner_up, tuple(scores), tuple(shares))
        labels = tuple(_label(info, index) for index in (best, *others) if shares[index] > THRESHOLD)
        yield replace(prediction, labels=labels) if info.multi_label else prediction


def _label(info: ModelInfo, index: int) -> str:
    return info.labels[index] if index < len(info.labels) else str(index)
