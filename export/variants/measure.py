"""A variant beside the float32 model it was made from, on the same images, in one run.

Ensures: accuracy, size and SQNR are the same in every run; what depends on the machine is in latency.py and memory.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.errors import VariantError
from export.names import LOGITS
from export.onnx_model.runtime import Runtime, every_value
from export.variants import graph
from export.variants.eval_data import Evidence, ImageSet
from export.variants.latency import Latency
from zoo.networks.preprocessing import Preprocessing

MOST_DB = 200.0  # stands for equality, and its negative for a result that is not finite
NUMBERS = 2**20  # of images at once, where every value is kept: 6 of 3x224x224
BATCH_NUMBERS = 2**22

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers from 0 to 1 of both models on `images` of the `of` that the split holds."""

    fp32: float
    variant: float
    images: int
    of: int

    @property
    def drop_points(self) -> float:
        """How much is lost, in points; negative where the variant is better."""
        return 100 * (self.fp32 - self.variant)


@dataclass(frozen=True)
class Figures:
    """What was measured. `layers_db` is by layer; `outputs_db` by output; `agreement` the share of same classes.

    `accuracy` is None where there are no labels, `agreement` where there are no logits, `latency` and the peaks in
    MB where they could not be measured.
    """

    fp32_bytes: int
    variant_bytes: int
    outputs_db: Mapping[str, float]
    layers_db: Mapping[str, float]
    accuracy: Accuracy | None
    agreement: float | None
    latency: Latency | None = None
    fp32_peak_mb: float | None = None
    variant_peak_mb: float | None = None

    @property
    def output_db(self) -> float:
        """The SQNR of the worst output."""
        return min(self.outputs_db.values())

    @property
    def worst_layer(self) -> tuple[str, float] | None:
        """The layer with the least SQNR; None where no layer can be seen."""
        return min(self.layers_db.items(), key=lambda entry: entry[1]) if self.layers_db else None


def sqnr_db(expected: Array, got: Array) -> float:
    """Signal to quantisation noise: 10 log10 of the power of `expected` over that of the difference, in dB.

    Equal values have MOST_DB, values that are not finite -MOST_DB. Rounded to a tenth.
    """
    exact, other = expected.astype(np.float64), got.astype(np.float64)
    if not np.all(np.isfinite(other)):
        return -MOST_DB
    signal, noise = float(np.sum(exact**2)), float(np.sum((exact - other) ** 2))
    if noise == 0:
        return MOST_DB
    if signal == 0:
        return -MOST_DB
    return round(min(MOST_DB, max(-MOST_DB, 10 * math.log10(signal / noise))), 1)


class VariantEvaluator:
    """Runs variants of one model on the same images. `model` is the float32 original."""

    def __init__(self, model: onnx.ModelProto, preprocessing: Preprocessing, evidence: Evidence) -> None:
        self._model, self._preprocessing, self._evidence = model, preprocessing, evidence
        few = max(4, min(64, NUMBERS // math.prod(preprocessing.input_size)))
        self._few = self.feeds(evidence.test.images[:few])
        seen = Runtime(model, every_value(model), optimise=False).run(self._few)
        self._values = {name: array for name, array in seen.items() if array.dtype == np.float32}
        self._answers: dict[int, dict[str, Array]] = {}

    @property
    def largest(self) -> dict[str, float]:
        """The largest magnitude of each value of the original."""
        return {name: float(np.max(np.abs(array), initial=0.0)) for name, array in self._values.items()}

    def feeds(self, images: npt.NDArray[np.uint8]) -> Mapping[str, Array]:
        """What the original takes, and so every variant."""
        return graph.feeds(self._model, images, self._preprocessing)

    def float_outputs(self) -> list[str]:
        """The outputs that a variant computes otherwise; integers are right or wrong. Raises: VariantError."""
        outputs = [info.name for info in self._model.graph.output]
        found = [name for name in outputs if name in self._values]
        if not found:
            raise VariantError(
                f"what it loses cannot be measured: no output is float32 ({', '.join(outputs)}); let the network give a "
                "float32 tensor too, or leave this variant out."
            )
        return found

    def values_db(self, variant: onnx.ModelProto) -> dict[str, float]:
        """The SQNR of every value that both models name, outputs included. Raises: VariantError."""
        there = [name for name in self._values if name in graph.values(variant)]
        got = Runtime(variant, there, optimise=False).run(self._few)
        for name in there:
            if got[name].shape != self._values[name].shape:
                has, wanted = list(got[name].shape), list(self._values[name].shape)
                raise VariantError(f"the value '{name}' is {has} in the variant, {wanted} in the original.")
        return {name: sqnr_db(self._values[name], got[name]) for name in there}

    def layers_db(self, variant: onnx.ModelProto, values_db: Mapping[str, float]) -> dict[str, float]:
        """The SQNR of every layer that has a value of its own."""
        layers = graph.layer_map(variant).layers
        return {layer.name: values_db[layer.value] for layer in layers if layer.value in values_db and not layer.of}

    def figures(self, variant: onnx.ModelProto, numbers: onnx.ModelProto | None = None) -> Figures:
        """Measure `variant`; `numbers` is a model that gives the target's numbers, where this machine would not.

        An output's SQNR is then the worse of both: the variant itself must not be another network.
        Raises: VariantError where no output is float32, or the values are of other shapes.
        """
        outputs = self.float_outputs()
        values_db = self.values_db(numbers or variant)
        own_db = self.values_db(variant) if numbers else values_db
        accuracy, agreement = self.accuracy(numbers or variant, self._evidence.test)
        return Figures(
            fp32_bytes=self._model.ByteSize(),
            variant_bytes=variant.ByteSize(),
            outputs_db={name: min(values_db[name], own_db[name]) for name in outputs if name in values_db},
            layers_db=self.layers_db(variant, values_db),
            accuracy=accuracy,
            agreement=agreement,
        )

    def accuracy(self, variant: onnx.ModelProto, image_set: ImageSet) -> tuple[Accuracy | None, float | None]:
        """Accuracy of both on `images`, where they have labels; the share of images with the same class in both."""
        if LOGITS not in {info.name for info in variant.graph.output}:
            return None, None
        expected = self._original(image_set)
        got = self.logits(Runtime(variant), image_set)
        agreement = float(np.mean(self._answers_of(expected) == self._answers_of(got)))
        if image_set.targets is None:
            return None, agreement
        fp32, own = (float(np.mean(self._answers_of(logits) == image_set.targets)) for logits in (expected, got))
        return Accuracy(fp32, own, len(image_set.images), image_set.of), agreement

    def _answers_of(self, logits: Array) -> Array:
        """The class of each image, or yes and no for each class where an image may be of several."""
        return (logits > 0).astype(np.int64) if self._evidence.several else logits.argmax(-1)

    def _original(self, image_set: ImageSet) -> Array:
        key = id(image_set)
        if key not in self._answers:
            self._answers[key] = {LOGITS: self.logits(Runtime(self._model), image_set)}
        return self._answers[key][LOGITS]

    def logits(self, runtime: Runtime, image_set: ImageSet) -> Array:
        """The logits of `images`, a batch at a time."""
        size = max(1, min(256, BATCH_NUMBERS // math.prod(self._preprocessing.input_size)))
        starts = range(0, len(image_set.images), size)
        return np.concatenate(
            [runtime.run(self.feeds(image_set.images[start : start + size]), [LOGITS])[LOGITS] for start in starts]
        )
