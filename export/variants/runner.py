"""The whole way from a written version to its variants: make, measure, judge, write what is kept, report all.

Nothing of a refused variant is written but its figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from export.artifact.metadata import restamp
from export.errors import ConversionError, ExportError, SettingsError, VariantError
from export.onnx_model import external_data
from export.variants import fp16, int8, ort, session, static_shape, write
from export.variants.acceptance import Verdict, judge
from export.variants.eval_data import Evidence, gather
from export.variants.latency import compare
from export.variants.measure import Figures, VariantEvaluator, sqnr_db
from export.variants.memory import peak_mb
from export.variants.settings import Kind, VariantSettings
from export.variants.write import Original
from protos import manifest
from zoo import LoadedNetwork

Progress = Callable[[str], None]
CALIBRATION_NUMBERS = 2**21  # of images at once, 13 of 3x224x224


@dataclass(frozen=True, eq=False)
class Plan:
    """What is asked for, checked, with the images at hand."""

    settings: VariantSettings
    loaded: LoadedNetwork
    evidence: Evidence


@dataclass(frozen=True, eq=False)
class Made:
    """A variant before it is judged. `numbers` gives what the target device computes, where this one would not.

    `files` are what an edge form consists of; its `content` is what a session loads.
    """

    kind: Kind
    content: bytes
    how: str
    model: onnx.ModelProto | None = None
    numbers: onnx.ModelProto | None = None
    layer_map: manifest.LayerMap | None = None
    files: Mapping[str, bytes] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one variant. `figures` are None, and `folder` too, where it could not even be made."""

    kind: Kind
    how: str
    verdict: Verdict
    figures: Figures | None
    folder: Path | None


def plan(loaded: LoadedNetwork, models: Path, name: str, settings: VariantSettings) -> Plan:
    """Read the images and look for room, before the export begins. Raises: ExportError, ZooError."""
    _require_one_file(loaded)
    write.require_room(models, name, settings.kinds)
    return Plan(settings, loaded, gather(loaded, settings))


def _require_one_file(loaded: LoadedNetwork) -> None:
    """The tools that make and judge variants take a model as one message, which a large one is not."""
    held = sum(each.numel() * each.element_size() for each in loaded.network.state_dict().values())
    if held >= external_data.EXTERNAL_FROM_BYTES:
        raise SettingsError(
            f"{loaded.name} has {held / 1e9:.1f} GB of weights; variants are made of networks with less than "
            f"{external_data.EXTERNAL_FROM_BYTES / 1e9:.1f} GB: leave --variants out."
        )


def make_variants(planned: Plan, version: Path, progress: Progress = lambda step: None) -> list[Outcome]:
    """Make the planned variants of the version that stands in the folder `version`; write those that are kept.

    Raises: ExportError, when a kept one cannot be written.
    """
    original = write.read_original(version)
    progress("running the original")
    maker = _Maker(planned, original, progress)
    outcomes = [maker.outcome(kind) for kind in planned.settings.kinds]
    return maker.with_edge_folder(outcomes)


def require_all_kept(outcomes: list[Outcome]) -> None:
    """Turn refusals into an error. Raises: VariantError."""
    refused = [f"{each.kind} ({'; '.join(each.verdict.reasons)})" for each in outcomes if not each.verdict.kept]
    if refused:
        raise VariantError(f"the model was written, but these variants were refused: {', '.join(refused)}.")


class _Maker:
    def __init__(self, planned: Plan, original: Original, progress: Progress) -> None:
        self._settings, self._evidence, self._progress = planned.settings, planned.evidence, progress
        self._preprocessing = planned.loaded.preprocessing
        self._original = original
        self._judge = VariantEvaluator(original.model, self._preprocessing, planned.evidence)
        self._edge: dict[str, bytes] = {}

    def outcome(self, kind: Kind) -> Outcome:
        makers: Mapping[Kind, Callable[[], Made]] = {
            "int8": self._int8,
            "fp16": self._fp16,
            "fixed": self._fixed,
            "ort": self._ort,
        }
        try:
            made = makers[kind]()
            self._progress(f"measuring {kind} beside fp32")
            figures = self._measured(made)
        except (VariantError, ConversionError) as error:
            return Outcome(kind, "", Verdict((str(error),), ()), None, None)
        verdict = judge(kind, figures, self._evidence, self._settings)
        folder = self._kept(made, figures) if verdict.kept else None
        return Outcome(kind, made.how, verdict, figures, folder)

    def with_edge_folder(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Write what devices get, in one folder."""
        if not self._edge:
            return outcomes
        folder = write.write_edge(self._original, self._edge)
        return [
            replace(each, folder=folder) if each.kind in ("ort", "fixed") and each.verdict.kept else each
            for each in outcomes
        ]

    def _kept(self, made: Made, figures: Figures) -> Path | None:
        if made.files is not None:
            self._edge |= made.files
            return None
        if made.model is None or made.layer_map is None:
            raise ExportError(f"{made.kind} was kept without a model.")
        said = write.describe(self._original, made.kind, made.how, self._evidence, figures)
        return write.write_servable(self._original, made.kind, made.model, made.layer_map, said)

    def _int8(self) -> Made:
        model = self._original.model
        layers = self._original.promise.layer_map
        batches = self._calibration_batches()
        trials: dict[int8.Method, tuple[float, float, onnx.ModelProto]] = {}
        seen: Mapping[str, int8.Range] | None = None
        for method in int8.METHODS:
            self._progress(f"int8, calibrated by {method}")
            ranges = int8.calibrate(model, batches, method, seen)
            seen = seen or ranges  # minmax is the first
            quantised = int8.quantise(model, ranges)
            restamp(quantised, model, layers)
            accuracy, _ = self._judge.accuracy(quantised, self._evidence.choosing)
            trials[method] = (accuracy.variant if accuracy else 0.0, self._choosing_db(quantised), quantised)
        best = max(trials, key=lambda method: trials[method][:2])
        layer_map = restamp(trials[best][2], model, layers)
        how = _why(best, {method: trial[:2] for method, trial in trials.items()}, self._evidence)
        return Made(
            "int8", trials[best][2].SerializeToString(deterministic=True), how, trials[best][2], None, layer_map
        )

    def _choosing_db(self, model: onnx.ModelProto) -> float:
        """The SQNR of the worst output on the images that choose. Raises: VariantError."""
        from export.onnx_model.runtime import Runtime

        outputs = self._judge.float_outputs()
        feeds = self._judge.feeds(self._evidence.choosing.images[:32])
        expected, got = (Runtime(each).run(feeds, outputs) for each in (self._original.model, model))
        return min(sqnr_db(expected[name], got[name]) for name in outputs)

    def _calibration_batches(self) -> list[Mapping[str, Any]]:
        images = self._evidence.calibration.images
        size = max(1, CALIBRATION_NUMBERS // max(1, images[0].size))
        return [self._judge.feeds(images[start : start + size]) for start in range(0, len(images), size)]

    def _fp16(self) -> Made:
        self._progress("fp16: looking for what must stay float32")
        model = self._original.model
        halved = fp16.halve(model, self._judge.largest, self._judge.values_db, _frame(model))
        layer_map = restamp(halved.model, model, self._original.promise.layer_map)
        numbers = fp16.rounding_model(model, halved.islands)
        islands = [f"{name} ({why})" for name, why in halved.islands.items() if name not in _frame(model)]
        how = f"float16; float32 where measured to be needed: {', '.join(islands) or 'nowhere'}"
        content = halved.model.SerializeToString(deterministic=True)
        return Made("fp16", content, how, halved.model, numbers, layer_map)

    def _fixed(self) -> Made:
        self._progress("fixed")
        twin = static_shape.fix(self._original.model, self._preprocessing)
        content = twin.SerializeToString(deterministic=True)
        return Made("fixed", content, "every shape fixed, batch 1", files={"model.fixed.onnx": content})

    def _ort(self) -> Made:
        self._progress("ort: converting, and asking what phones can run")
        files = ort.convert(self._original.model)
        return Made("ort", files[ort.MODEL], "onnxruntime's own format, optimised for any CPU", files=files)

    def _measured(self, made: Made) -> Figures:
        figures = self._judge.figures(made.model, made.numbers) if made.model else self._outputs_only(made)
        feeds = dict(self._judge.feeds(self._evidence.test.images[:1]))
        original = self._original.model.SerializeToString()
        figures = replace(figures, fp32_peak_mb=peak_mb(original, feeds), variant_peak_mb=peak_mb(made.content, feeds))
        servable = made.model is not None
        target, bound = (self._settings.target, self._settings.bounds.min_speedup) if servable else ("cpu", 0.0)
        if not session.is_here(target):
            return figures
        fp32, variant = (_runner(session.open_session(each, target), feeds) for each in (original, made.content))
        return replace(figures, latency=compare(target, fp32, variant, bound))

    def _outputs_only(self, made: Made) -> Figures:
        """The figures of a form whose inner values cannot be seen: one image at a time, since it may be fixed."""
        from export.onnx_model.runtime import Runtime

        original, other = Runtime(self._original.model), session.open_session(made.content)
        names = original.output_names
        found: dict[str, float] = {}
        for image in self._evidence.test.images[:8]:
            feeds = dict(self._judge.feeds(image[None]))
            expected, got = original.run(feeds), dict(zip(names, other.run(names, feeds), strict=True))
            for name in names:
                found[name] = min(found.get(name, 1e9), sqnr_db(expected[name], got[name]))
        return Figures(self._original.model.ByteSize(), len(made.content), found, {}, None, None)


def _runner(opened: Any, feeds: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: opened.run(None, feeds)


def _frame(model: onnx.ModelProto) -> list[str]:
    """The nodes around the network: from the images to normalised floats, and from logits to probabilities."""
    from export.names import IMAGE, IMAGE_SCALE, LOGITS

    if model.graph.input[0].name != IMAGE:
        return []  # what a raw network calls so are its own layers
    nodes = list(model.graph.node)
    first = next((index for index, node in enumerate(nodes) if IMAGE_SCALE in node.input), -1)
    after: list[str] = []
    reached = {LOGITS}
    for node in nodes:
        if reached & set(node.input):
            reached |= set(node.output)
            after.append(node.name)
    return [*(node.name for node in nodes[: first + 1]), *after]


def _why(best: int8.Method, trials: Mapping[int8.Method, tuple[float, float]], evidence: Evidence) -> str:
    labelled = evidence.choosing.targets is not None
    words = ", ".join(
        f"{method} {100 * accuracy:.2f} % and {db:.1f} dB" if labelled else f"{method} {db:.1f} dB"
        for method, (accuracy, db) in trials.items()
    )
    judged = "accuracy, then SQNR" if labelled else "SQNR"
    return f"int8 by channel; calibration {best}, the best by {judged} on {evidence.dataset}'s held-out images: {words}"
