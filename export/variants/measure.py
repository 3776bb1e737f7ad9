"""Compares a variant with its float32 original, on the same images.

Ensures: accuracy, size and SQNR are the same in every run. Machine-dependent measurements are in latency.py and
memory.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from export.arrays import Array, Images
from export.errors import VariantError
from export.interface.probe_images import range_ends
from export.names import LOGITS
from export.onnx_model.runtime import Runtime, value_names
from export.variants import graph
from export.variants.eval_data import EvalData, ImageSet
from export.variants.latency import Latency
from zoo.networks.preprocessing import Preprocessing

MAX_DB = 200.0  # the SQNR of equal values; that of values that are not finite is -MAX_DB
SQNR_BATCH_NUMBERS = 2**20  # numbers in a batch of images if all values are stored: 6 images of 3x224x224
LOGIT_BATCH_NUMBERS = 2**22  # likewise, if only the logits are stored


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the original and of the variant.

    Attributes:
        fp32: Fraction of correct predictions of the original, 0 to 1.
        variant: Likewise, of the variant.
        images: Number of test images.
        split_size: Number of images in the complete test split.
    """

    fp32: float
    variant: float
    images: int
    split_size: int

    @property
    def drop_points(self) -> float:
        """The loss in percentage points; negative if the variant is better."""
        return 100 * (self.fp32 - self.variant)


@dataclass(frozen=True)
class Measurements:
    """The measurements of one variant and its original.

    Attributes:
        fp32_bytes: Size of the original.
        variant_bytes: Size of the variant.
        outputs_db: SQNR in dB by output.
        layers_db: SQNR in dB by layer; empty if the layers cannot be observed.
        accuracy: None if the images have no labels.
        agreement: Fraction of equal predictions, 0 to 1; None if there are no logits.
        latency: None if the target device is missing.
        fp32_peak_mb: Peak memory of the original in MB; None if it cannot be measured here.
        variant_peak_mb: Likewise, of the variant.
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
        """The layer with the lowest SQNR; None if no layer can be observed."""
        return min(self.layers_db.items(), key=lambda entry: entry[1]) if self.layers_db else None


def sqnr_db(expected: Array, actual: Array) -> float:
    """Return the signal to quantisation noise ratio in dB: 10 log10(power of `expected` / power of the difference).

    It is MAX_DB for equal values and -MAX_DB for values that are not finite; rounded to a tenth.
    """
    exact, other = expected.astype(np.float64), actual.astype(np.float64)
    if not np.all(np.isfinite(other)):
        return -MAX_DB
    signal, noise = float(np.sum(exact**2)), float(np.sum((exact - other) ** 2))
    if noise == 0:
        return MAX_DB
    if signal == 0:
        return -MAX_DB
    return round(min(MAX_DB, max(-MAX_DB, 10 * math.log10(signal / noise))), 1)


class VariantEvaluator:
    """Runs variants of one model on the same images. `model` is the float32 original."""

    def __init__(self, model: onnx.ModelProto, preprocessing: Preprocessing, eval_data: EvalData) -> None:
        self._model, self._preprocessing, self._eval_data = model, preprocessing, eval_data
        count = max(4, min(64, SQNR_BATCH_NUMBERS // math.prod(preprocessing.input_size)))
        extremes = list(range_ends(preprocessing).values())
        self._sqnr_feeds = self.feeds(np.concatenate([eval_data.test.images[:count], *extremes]))
        arrays = Runtime(model, value_names(model), optimise=False).run(self._sqnr_feeds)
        self._values = {name: array for name, array in arrays.items() if array.dtype == np.float32}
        self._original_logits: dict[int, Array] = {}  # by the identity of the image set

    @property
    def largest(self) -> dict[str, float]:
        """The largest magnitude of each float32 value of the original."""
        return {name: float(np.max(np.abs(array), initial=0.0)) for name, array in self._values.items()}

    def feeds(self, images: Images) -> Mapping[str, Array]:
        """Return the input of the original, and of every variant, for `images`."""
        return graph.feeds(self._model, images, self._preprocessing)

    def float_outputs(self) -> list[str]:
        """Return the names of the float32 outputs, on which a variant is compared. Raises: VariantError."""
        outputs = [info.name for info in self._model.graph.output]
        float_outputs = [name for name in outputs if name in self._values]
        if not float_outputs:
            raise VariantError(
                f"its error cannot be measured: no output is float32 ({', '.join(outputs)}); add a float32 output to "
                "the network, or omit this variant."
            )
        return float_outputs

    def values_db(self, variant: onnx.ModelProto) -> dict[str, float]:
        """Return the SQNR of every value that both models have, outputs included. Raises: VariantError."""
        in_variant = set(value_names(variant))
        names = [name for name in self._values if name in in_variant]
        arrays = Runtime(variant, names, optimise=False).run(self._sqnr_feeds)
        for name in names:
            if arrays[name].shape != self._values[name].shape:
                actual, expected = list(arrays[name].shape), list(self._values[name].shape)
                raise VariantError(f"value '{name}': expected shape {expected} as in the original, got {actual}.")
        return {name: sqnr_db(self._values[name], arrays[name]) for name in names}

    def layers_db(self, variant: onnx.ModelProto, values_db: Mapping[str, float]) -> dict[str, float]:
        """Return the SQNR of every layer that has its own value."""
        layers = graph.layer_map(variant).layers
        return {layer.name: values_db[layer.value] for layer in layers if layer.value in values_db and not layer.of}

    def measure(self, variant: onnx.ModelProto, simulation: onnx.ModelProto | None = None) -> Measurements:
        """Measure accuracy, SQNR and size of `variant`.

        `simulation` computes the results of the target device if this machine computes others. The SQNR of an output is
        then the lower one of `variant` and `simulation`, so that a difference between the two models is detected.

        Raises: VariantError if no output is float32, or if the shapes of values differ.
        """
        outputs = self.float_outputs()
        values_db = self.values_db(simulation or variant)
        variant_db = self.values_db(variant) if simulation else values_db
        accuracy, agreement = self.accuracy(simulation or variant, self._eval_data.test)
        return Measurements(
            fp32_bytes=self._model.ByteSize(),
            variant_bytes=variant.ByteSize(),
            outputs_db={name: min(values_db[name], variant_db[name]) for name in outputs if name in values_db},
            layers_db=self.layers_db(variant, values_db),
            accuracy=accuracy,
            agreement=agreement,
        )

    def accuracy(self, variant: onnx.ModelProto, image_set: ImageSet) -> tuple[Accuracy | None, float | None]:
        """Return the accuracies, None without labels, and the fraction of equal predictions, None without logits."""
        if LOGITS not in {info.name for info in variant.graph.output}:
            return None, None
        original = self._predictions(self._cached_original_logits(image_set))
        predictions = self._predictions(self.logits(Runtime(variant), image_set))
        agreement = float(np.mean(original == predictions))
        if image_set.targets is None:
            return None, agreement
        fp32_accuracy = float(np.mean(original == image_set.targets))
        variant_accuracy = float(np.mean(predictions == image_set.targets))
        accuracy = Accuracy(fp32_accuracy, variant_accuracy, len(image_set.images), image_set.split_size)
        return accuracy, agreement

    def _predictions(self, logits: Array) -> Array:
        """Return the class of each image, or 0 and 1 for each class of a multi-label task."""
        return (logits > 0).astype(np.int64) if self._eval_data.multi_label else logits.argmax(-1)

    def _cached_original_logits(self, image_set: ImageSet) -> Array:
        key = id(image_set)
        if key not in self._original_logits:
            self._original_logits[key] = self.logits(Runtime(self._model), image_set)
        return self._original_logits[key]

    def logits(self, runtime: Runtime, image_set: ImageSet) -> Array:
        """Return the logits of all images, computed in batches."""
        size = max(1, min(256, LOGIT_BATCH_NUMBERS // math.prod(self._preprocessing.input_size)))
        starts = range(0, len(image_set.images), size)
        return np.concatenate(
            [runtime.run(self.feeds(image_set.images[start : start + size]), [LOGITS])[LOGITS] for start in starts]
        )
