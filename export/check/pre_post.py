"""What stands around the network: images become numbers by the promised rule, logits probabilities by the promised head.

The graph itself is asked, by the inputs of the test data.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.check.artifact import Subject
from export.check.results import Fault, Finding, found
from export.check.test_data import read_test_data
from export.errors import ConversionError
from export.names import CONFIG, IMAGE, IMAGE_SCALE, LOGITS, MANIFEST, MULTI_LABEL, PROBABILITIES, TASK_KEY
from export.onnx_model.runtime import Runtime
from protos import manifest

ROUNDING = 2e-6  # of the numbers that normalising adds up: 32 units in float32's last place
HEAD_RTOL, HEAD_ATOL = 1e-4, 1e-6  # of a probability

Array = npt.NDArray[Any]


def check_frame(subject: Subject) -> Finding:
    """Compare what the graph makes of images and of logits with the rule and the head in the manifest."""
    if not subject.promise:
        return Finding("frame", "not done", "no manifest, so no rule and no head is promised")
    words = [*_task_faults(subject, subject.promise)]
    if not subject.promise.HasField("preprocessing"):
        words += ["it has a head, but takes no images"] if subject.promise.HasField("head") else []
        return _finding(subject, "a model that takes no images", words)
    feeds = {name: each for name, each in read_test_data(subject.folder, "input").values() if name == IMAGE}
    normalised = _normalised(subject.model)
    if not feeds or not normalised:
        return _finding(subject, "images", ["it has a rule for images, but the graph takes none by a rule"])
    try:
        got = Runtime(subject.model, [normalised], optimise=False, weights=subject.folder).run(
            feeds, [normalised, LOGITS, PROBABILITIES]
        )
    except ConversionError as error:
        return _finding(subject, "what onnxruntime computes", [str(error)])
    words += _rule_faults(subject.promise.preprocessing, feeds[IMAGE], got[normalised])
    words += _head_faults(_head(subject.promise), got)
    return _finding(subject, "from images to numbers, from logits to probabilities", words)


def _finding(subject: Subject, about: str, words: list[str]) -> Finding:
    return found("frame", about, [Fault(str(subject.folder / MANIFEST), each) for each in words])


def _normalised(model: onnx.ModelProto) -> str:
    """The value that the graph's own normalising gives, under whatever name; empty where there is none."""
    return next((node.output[0] for node in model.graph.node if IMAGE_SCALE in node.input), "")


def _rule_faults(rule: manifest.Preprocessing, images: Array, got: Array) -> Iterator[str]:
    if images.shape[1:] != (rule.height, rule.width, rule.channels) or len(rule.mean) != rule.channels:
        has = "x".join(map(str, images.shape[1:]))
        yield f"its rule is for {rule.channels}x{rule.height}x{rule.width}; the images are {has} behind the batch"
        return
    mean, std = (np.array(each, np.float64).reshape(-1, 1, 1) for each in (rule.mean, rule.std))
    expected = (np.moveaxis(images, -1, 1) / 255 - mean) / std
    if np.any(~(np.abs(got - expected) <= ROUNDING * (1 + np.abs(mean)) / std)):
        yield "its mean and std are not those by which the graph normalises images"


def _head(promise: manifest.Manifest) -> manifest.Head:
    """The head; the first manifests name none, since there was but one."""
    return promise.head if promise.HasField("head") else manifest.Head(activation="softmax", temperature=1)


def _head_faults(head: manifest.Head, got: Mapping[str, Array]) -> Iterator[str]:
    with np.errstate(over="ignore", invalid="ignore"):  # a class may be masked by an infinite logit
        cooled = got[LOGITS].astype(np.float64) / (head.temperature or np.nan)
        expected = _softmax(cooled) if head.activation == "softmax" else 1 / (1 + np.exp(-cooled))
    if not np.allclose(got[PROBABILITIES], expected, HEAD_RTOL, HEAD_ATOL, equal_nan=True):
        said = f"{head.activation}(logits / {head.temperature:.4g})"
        yield f"its head, {said}, is not what the graph makes of the logits"


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


def _task_faults(subject: Subject, promise: manifest.Manifest) -> Iterator[str]:
    parameters = subject.config.parameters if subject.config else {}
    said = parameters[TASK_KEY].string_value if TASK_KEY in parameters else ""
    activation = _head(promise).activation
    if said != (MULTI_LABEL if activation == "sigmoid" else ""):
        yield f"its head is {activation}; {CONFIG} names the task '{said}'"
