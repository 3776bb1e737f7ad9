"""Builds, measures and judges the variants of a written version, and writes those that are accepted.

Rejected variants only appear in the report, with their measurements.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from export.artifact.metadata import write_variant_metadata
from export.errors import ConversionError, ExportError, SettingsError, VariantError
from export.onnx_model import external_data
from export.onnx_model.runtime import Runtime
from export.variants import fp16, int8, ort, session, static_shape, write
from export.variants.acceptance import Verdict, judge
from export.variants.eval_data import EvalData, load_eval_data
from export.variants.graph import interface_nodes
from export.variants.latency import compare
from export.variants.measure import Measurements, VariantEvaluator, sqnr_db
from export.variants.memory import peak_mb
from export.variants.settings import SERVABLE, Kind, VariantSettings
from export.variants.write import EDGE_MODELS, Original
from protos import manifest
from zoo import LoadedNetwork

Progress = Callable[[str], None]
CALIBRATION_BATCH_NUMBERS = 2**21  # numbers in a batch of images: 13 images of 3x224x224
SELECTION_IMAGES = 32  # validation images for the SQNR of a calibration method
EDGE_IMAGES = 8  # test images for the outputs of a model for devices


@dataclass(frozen=True, eq=False)
class Plan:
    """Validated settings, the network, and the images for its variants."""

    settings: VariantSettings
    loaded: LoadedNetwork
    eval_data: EvalData


@dataclass(frozen=True, eq=False)
class BuiltVariant:
    """A variant before it is judged.

    Attributes:
        kind: Which variant.
        content: The bytes that a session loads.
        how: Description of the build, in one sentence.
        model: The ONNX model; None for files for devices.
        simulation: Model that computes the results of the target device, if this machine computes others.
        layer_map: The layer map of `model`.
        files: The files for devices by name; None for a servable variant.
    """

    kind: Kind
    content: bytes
    how: str
    model: onnx.ModelProto | None = None
    simulation: onnx.ModelProto | None = None
    layer_map: manifest.LayerMap | None = None
    files: Mapping[str, bytes] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result for one variant.

    Attributes:
        kind: Which variant.
        how: Description of the build; empty if building failed.
        verdict: Accepted or rejected, with reasons.
        measured: The measurements; None if building or measuring failed.
        folder: Folder of the written variant; None if it was rejected.
    """

    kind: Kind
    how: str
    verdict: Verdict
    measured: Measurements | None
    folder: Path | None


def plan(loaded: LoadedNetwork, models: Path, name: str, settings: VariantSettings) -> Plan:
    """Load the images and check the target folders, before the export. Raises: ExportError, ZooError."""
    _require_one_file(loaded)
    write.require_available(models, name, settings.kinds)
    return Plan(settings, loaded, load_eval_data(loaded, settings))


def _require_one_file(loaded: LoadedNetwork) -> None:
    """Reject a large network: the tools that build and measure variants need a model in one protobuf message."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in loaded.network.state_dict().values())
    if size >= external_data.EXTERNAL_FROM_BYTES:
        raise SettingsError(
            f"{loaded.name} has {size / 1e9:.1f} GB of weights, but variants need less than "
            f"{external_data.EXTERNAL_FROM_BYTES / 1e9:.1f} GB: omit --variants."
        )


def make_variants(plan: Plan, version: Path, progress: Progress = lambda step: None) -> list[Outcome]:
    """Build the planned variants of the version in the folder `version`, and write those that are accepted.

    Raises: ExportError if an accepted variant cannot be written.
    """
    original = write.read_original(version)
    progress("running the original")
    builder = _VariantBuilder(plan, original, progress)
    outcomes = [builder.build(kind) for kind in plan.settings.kinds]
    return builder.write_edge_files(outcomes)


def require_all_accepted(outcomes: list[Outcome]) -> None:
    """Raise VariantError if a variant was rejected."""
    rejected = [
        f"{outcome.kind} ({'; '.join(outcome.verdict.reasons)})" for outcome in outcomes if not outcome.verdict.accepted
    ]
    if rejected:
        raise VariantError(f"the model was written, but these variants were rejected: {', '.join(rejected)}.")


class _VariantBuilder:
    """Builds, measures, judges and writes the variants of one version."""

    def __init__(self, plan: Plan, original: Original, progress: Progress) -> None:
        self._settings, self._eval_data, self._progress = plan.settings, plan.eval_data, progress
        self._preprocessing = plan.loaded.preprocessing
        self._original = original
        self._evaluator = VariantEvaluator(original.model, self._preprocessing, plan.eval_data)
        self._edge_files: dict[str, bytes] = {}

    def build(self, kind: Kind) -> Outcome:
        builders: Mapping[Kind, Callable[[], BuiltVariant]] = {
            "int8": self._build_int8,
            "fp16": self._build_fp16,
            "fixed": self._build_fixed,
            "ort": self._build_ort,
        }
        try:
            built = builders[kind]()
            self._progress(f"comparing {kind} with fp32")
            measured = self._measure(built)
        except (VariantError, ConversionError) as error:
            return Outcome(kind, "", Verdict((str(error),), ()), None, None)
        except Exception as error:  # noqa: BLE001 - a tool may fail in any way: the next variant must still be built
            reason = f"building it failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return Outcome(kind, "", Verdict((reason,), ()), None, None)
        verdict = judge(kind, measured, self._eval_data, self._settings)
        folder = self._write(built, measured) if verdict.accepted else None
        return Outcome(kind, built.how, verdict, measured, folder)

    def write_edge_files(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Write the files for devices of all accepted variants into one folder."""
        if not self._edge_files:
            return outcomes
        folder = write.write_edge(self._original, self._edge_files)
        return [
            replace(outcome, folder=folder) if outcome.kind not in SERVABLE and outcome.verdict.accepted else outcome
            for outcome in outcomes
        ]

    def _write(self, built: BuiltVariant, measured: Measurements) -> Path | None:
        """Write a servable variant and return its folder; collect files for devices and return None."""
        if built.files is not None:
            self._edge_files |= built.files
            return None
        if built.model is None or built.layer_map is None:
            raise ExportError(f"{built.kind} was accepted without a model.")
        record = write.variant_record(self._original, built.kind, built.how, self._eval_data, measured)
        return write.write_servable(self._original, built.kind, built.model, built.layer_map, record)

    def _build_int8(self) -> BuiltVariant:
        """Quantise with each calibration method and choose the best on validation images."""
        original, batches = self._original.model, self._calibration_batches()
        models: dict[int8.Method, onnx.ModelProto] = {}
        scores: dict[int8.Method, tuple[float, float]] = {}  # accuracy, SQNR in dB
        limits: Mapping[str, int8.Range] | None = None
        for method in int8.METHODS:
            self._progress(f"int8, calibrated by {method}")
            ranges = int8.calibrate(original, batches, method, limits)
            limits = limits or ranges  # minmax is the first method
            models[method] = int8.quantise(original, ranges)
            accuracy, _ = self._evaluator.accuracy(models[method], self._eval_data.validation)
            scores[method] = (accuracy.variant if accuracy else 0.0, self._validation_db(models[method]))
        best = max(scores, key=lambda method: scores[method])
        model = models[best]
        layer_map = write_variant_metadata(model, original, self._original.manifest.layer_map)
        how = _describe_calibration(best, scores, self._eval_data)
        return BuiltVariant("int8", model.SerializeToString(deterministic=True), how, model, layer_map=layer_map)

    def _validation_db(self, model: onnx.ModelProto) -> float:
        """Return the SQNR of the worst output on validation images. Raises: VariantError."""
        outputs = self._evaluator.float_outputs()
        feeds = self._evaluator.feeds(self._eval_data.validation.images[:SELECTION_IMAGES])
        expected, actual = Runtime(self._original.model).run(feeds, outputs), Runtime(model).run(feeds, outputs)
        return min(sqnr_db(expected[name], actual[name]) for name in outputs)

    def _calibration_batches(self) -> list[Mapping[str, Any]]:
        images = self._eval_data.calibration.images
        size = max(1, CALIBRATION_BATCH_NUMBERS // max(1, images[0].size))
        return [self._evaluator.feeds(images[start : start + size]) for start in range(0, len(images), size)]

    def _build_fp16(self) -> BuiltVariant:
        self._progress("fp16: searching for nodes that must stay float32")
        original, evaluator = self._original.model, self._evaluator
        excluded = interface_nodes(original)
        result = fp16.halve(original, evaluator.largest, evaluator.values_db, excluded)
        layer_map = write_variant_metadata(result.model, original, self._original.manifest.layer_map)
        nodes = [f"{name} ({reason})" for name, reason in result.float32_nodes.items() if name not in excluded]
        return BuiltVariant(
            "fp16",
            result.model.SerializeToString(deterministic=True),
            f"float16; nodes that stay float32, by measurement: {', '.join(nodes) or 'none'}",
            result.model,
            simulation=fp16.rounding_model(original, result.float32_nodes),
            layer_map=layer_map,
        )

    def _build_fixed(self) -> BuiltVariant:
        self._progress("fixed")
        static = static_shape.with_static_shapes(self._original.model, self._preprocessing)
        content = static.SerializeToString(deterministic=True)
        return BuiltVariant("fixed", content, "all shapes static, batch size 1", files={EDGE_MODELS["fixed"]: content})

    def _build_ort(self) -> BuiltVariant:
        self._progress("ort: converting, and checking support on phones")
        files = ort.convert(self._original.model)
        return BuiltVariant("ort", files[ort.MODEL], "onnxruntime's own format, optimised for any CPU", files=files)

    def _measure(self, built: BuiltVariant) -> Measurements:
        """Measure accuracy, SQNR and size, then memory and, if the target device is available, latency."""
        if built.model:
            measured = self._evaluator.measure(built.model, built.simulation)
            target, bound = self._settings.target, self._settings.bounds.min_speedup
        else:
            measured, target, bound = self._measure_outputs(built), "cpu", 0.0
        feeds = dict(self._evaluator.feeds(self._eval_data.test.images[:1]))
        original = self._original.model.SerializeToString()
        peaks = [peak_mb(content, feeds) for content in (original, built.content)]
        measured = replace(measured, fp32_peak_mb=peaks[0], variant_peak_mb=peaks[1])
        if not session.is_available(target):
            return measured
        sessions = [session.open_session(content, target) for content in (original, built.content)]
        runs = [functools.partial(opened.run, None, feeds) for opened in sessions]
        return replace(measured, latency=compare(target, runs[0], runs[1], bound))

    def _measure_outputs(self, built: BuiltVariant) -> Measurements:
        """Measure a variant whose layers cannot be observed, one image at a time, because its batch size may be 1."""
        original, variant = Runtime(self._original.model), session.open_session(built.content)
        names = original.output_names
        worst_db: dict[str, float] = {}
        for image in self._eval_data.test.images[:EDGE_IMAGES]:
            feeds = dict(self._evaluator.feeds(image[None]))
            expected, actual = original.run(feeds), dict(zip(names, variant.run(names, feeds), strict=True))
            for name in names:
                worst_db[name] = min(worst_db.get(name, 1e9), sqnr_db(expected[name], actual[name]))
        return Measurements(self._original.model.ByteSize(), len(built.content), worst_db, {}, None, None)


def _describe_calibration(
    best: int8.Method, scores: Mapping[int8.Method, tuple[float, float]], eval_data: EvalData
) -> str:
    is_labelled = eval_data.validation.targets is not None
    by_method = ", ".join(
        f"{method} {100 * accuracy:.2f} % and {db:.1f} dB" if is_labelled else f"{method} {db:.1f} dB"
        for method, (accuracy, db) in scores.items()
    )
    criterion = "accuracy, then SQNR" if is_labelled else "SQNR"
    return (
        f"int8 by channel, calibrated by {best}, the best of three methods by {criterion} on validation images of "
        f"{eval_data.dataset}: {by_method}"
    )
