"""Checks the normalisation of images and the head in the graph against the manifest, by running the test data."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from export.arrays import Array
from export.check.artifact import Artifact
from export.check.results import CheckResult, Failure
from export.check.test_data import read_test_data
from export.errors import ConversionError
from export.names import IMAGE, IMAGE_SCALE, LOGITS, PROBABILITIES
from export.onnx_model.runtime import Runtime
from protos.files import CONFIG, MANIFEST
from protos.keys import MULTI_LABEL, TASK_KEY
from protos.manifest import Head, Manifest, Preprocessing

ROUNDING = 2e-6  # of the terms of the normalisation: 32 units in the last place of float32
HEAD_RTOL, HEAD_ATOL = 1e-4, 1e-6  # of a probability


def check_pre_post(artifact: Artifact) -> CheckResult:
    """Compare what the graph computes from images and from logits with the manifest's preprocessing and head."""
    manifest = artifact.manifest
    if not manifest:
        return CheckResult.not_run("pre/postprocessing", "no manifest, so neither preprocessing nor head is declared")
    messages = [*_task_errors(artifact, manifest)]
    if not manifest.HasField("preprocessing"):
        messages += ["declares a head, but no preprocessing"] if manifest.HasField("head") else []
        return _result(artifact, "the model does not accept images", messages)
    images = {name: array for name, array in read_test_data(artifact.folder, "input").values() if name == IMAGE}
    normalised = _normalised_value(artifact.model)
    if not images or not normalised:
        message = "declares preprocessing, but the graph does not normalise images, or there are no test images"
        return _result(artifact, "images", [message])
    try:
        runtime = Runtime(artifact.model, [normalised], optimise=False, weights=artifact.folder)
        computed = runtime.run(images, [normalised, LOGITS, PROBABILITIES])
    except ConversionError as error:
        return _result(artifact, "outputs in onnxruntime", [str(error)])
    messages += _preprocessing_errors(manifest.preprocessing, images[IMAGE], computed[normalised])
    messages += _head_errors(_head(manifest), computed)
    return _result(artifact, "normalisation of images, probabilities from logits", messages)


def _result(artifact: Artifact, details: str, messages: list[str]) -> CheckResult:
    file = str(artifact.folder / MANIFEST)
    return CheckResult.from_failures("pre/postprocessing", details, [Failure(file, message) for message in messages])


def _normalised_value(model: onnx.ModelProto) -> str:
    """Return the name of the normalised images in the graph; empty if it does not normalise."""
    return next((node.output[0] for node in model.graph.node if IMAGE_SCALE in node.input), "")


def _preprocessing_errors(preprocessing: Preprocessing, images: Array, normalised: Array) -> Iterator[str]:
    height, width, channels = preprocessing.height, preprocessing.width, preprocessing.channels
    if images.shape[1:] != (height, width, channels) or len(preprocessing.mean) != channels:
        test_shape = "x".join(map(str, images.shape[1:]))
        declared = f"declares preprocessing to {height}x{width}x{channels} images (H, W, C)"
        yield f"{declared}, but the test images are {test_shape}"
        return
    mean, std = (np.array(values, np.float64).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    expected = (np.moveaxis(images, -1, 1) / 255 - mean) / std
    if np.any(~(np.abs(normalised - expected) <= ROUNDING * (1 + np.abs(mean)) / std)):
        yield "mean and std are not those with which the graph normalises images"


def _head(manifest: Manifest) -> Head:
    """Return the head; the oldest manifests have none, because softmax was the only head."""
    return manifest.head if manifest.HasField("head") else Head(activation="softmax", temperature=1)


def _head_errors(head: Head, outputs: Mapping[str, Array]) -> Iterator[str]:
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite logit may mask a class
        scaled = outputs[LOGITS].astype(np.float64) / (head.temperature or np.nan)
        expected = _softmax(scaled) if head.activation == "softmax" else 1 / (1 + np.exp(-scaled))
    if not np.allclose(outputs[PROBABILITIES], expected, HEAD_RTOL, HEAD_ATOL, equal_nan=True):
        declared = f"{head.activation}(logits / {head.temperature:.4g})"
        yield f"declares the head {declared}, but the graph computes other probabilities"


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Array = powers / powers.sum(-1, keepdims=True)
    return probabilities


def _task_errors(artifact: Artifact, manifest: Manifest) -> Iterator[str]:
    parameters = artifact.config.parameters if artifact.config else {}
    task = parameters[TASK_KEY].string_value if TASK_KEY in parameters else ""
    activation = _head(manifest).activation
    if task != (MULTI_LABEL if activation == "sigmoid" else ""):
        yield f"the head is {activation}, but {CONFIG} has the task '{task}'"
