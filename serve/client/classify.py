"""Asks a server about image files, batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serve.client import images
from serve.client.image_input import image_rule
from serve.client.model_info import ModelInfo
from serve.client.preprocessing import Preprocessing
from serve.client.sync import Client
from serve.errors import SettingsError, UnsupportedModelError
from serve.wire.tensors import Array

OUTPUTS = ("logits", "probabilities")
THRESHOLD = 0.5  # a label with a higher probability is there


@dataclass(frozen=True)
class Answer:
    """What the model said of one image; `label` is the class's number where the model has no labels.

    Where an image may have several, `labels` are those of a probability over 0.5, best first; else it is None.
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
class Report:
    """The answers, in the order of the files; `seconds` include reading and preparing the images."""

    model: str
    version: str
    seconds: float
    answers: tuple[Answer, ...]

    @property
    def images_per_s(self) -> float:
        return len(self.answers) / self.seconds


def ask(
    client: Client, model: str, files: Sequence[Path], batch_size: int | None, advance: Callable[[int], None]
) -> Report:
    """Classify `files`; `advance` is told how many more are done.

    Raises:
        UnsupportedModelError: the model does not say how to prepare images, or gives no logits and probabilities.
        SettingsError: `batch_size` is not one that the model takes.
        ImageError: a file is not an image.
    """
    info = client.model(model)
    rule = rule_of(info)
    size = _batch_size(info, batch_size)
    start_s = time.perf_counter()
    answers: list[Answer] = []
    for first in range(0, len(files), size):
        some = files[first : first + size]
        pixels = np.stack([images.load(file, rule) for file in some])
        outputs = client.infer(model, {info.inputs[0].name: pixels}, OUTPUTS, info.version)
        answers.extend(_answers(some, info, outputs[OUTPUTS[0]], outputs[OUTPUTS[1]]))
        advance(len(some))
    return Report(model, info.version, time.perf_counter() - start_s, tuple(answers))


def rule_of(info: ModelInfo) -> Preprocessing:
    """Return how images for the model are prepared.

    Raises:
        UnsupportedModelError: it does not say, it takes no images, or it gives no logits and probabilities.
    """
    rule = image_rule(info)
    missing = [name for name in OUTPUTS if name not in {each.name for each in info.outputs}]
    if missing:
        raise UnsupportedModelError(f"model '{info.name}' has no output '{missing[0]}', from which classes are read.")
    return rule


def _batch_size(info: ModelInfo, wanted: int | None) -> int:
    largest = max(1, info.max_batch_size)
    if wanted is not None and not 1 <= wanted <= largest:
        raise SettingsError(f"model '{info.name}' takes batches of 1 to {largest}; got --batch-size {wanted}.")
    return wanted or largest


def _answers(files: Sequence[Path], info: ModelInfo, logits: Array, probabilities: Array) -> Iterator[Answer]:
    labels = info.labels
    for file, scores, shares in zip(files, logits.tolist(), probabilities.tolist(), strict=True):
        best, *others = sorted(range(len(shares)), key=lambda index: (-shares[index], index))
        runner_up = f"{_label(labels, others[0])} {shares[others[0]]:.1%}" if others else ""
        answer = Answer(str(file), _label(labels, best), best, shares[best], runner_up, tuple(scores), tuple(shares))
        seen = tuple(_label(labels, index) for index in (best, *others) if shares[index] > THRESHOLD)
        yield replace(answer, labels=seen) if info.multi_label else answer


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index)
