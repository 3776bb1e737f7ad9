"""What is kept and what is refused, with the figures that say so."""

from dataclasses import dataclass

from export.variants.eval_data import Evidence
from export.variants.measure import Figures
from export.variants.settings import Kind, VariantSettings

SAME_DB = 80.0  # an edge form computes the same in another order


@dataclass(frozen=True)
class Verdict:
    """`reasons` are why a variant is refused, none where it is kept; `notes` what could not be judged."""

    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return not self.reasons


def judge(kind: Kind, figures: Figures, evidence: Evidence, settings: VariantSettings) -> Verdict:
    """Hold a servable variant to the bounds, and an edge form to the original's own numbers."""
    if kind in ("ort", "fixed"):
        return _judge_same(figures)
    numbers, notes = _judge_numbers(figures, evidence, settings)
    speed, more = _judge_speed(figures, settings)
    reasons = [*numbers, *speed]
    if reasons and figures.worst_layer:
        layer, db = figures.worst_layer
        reasons.append(f"the worst layer is '{layer}' with {db:.1f} dB")
    return Verdict(tuple(reasons), (*notes, *more))


def _judge_same(figures: Figures) -> Verdict:
    if figures.output_db < SAME_DB:
        return Verdict((f"its outputs are not the original's: {figures.output_db:.1f} dB",), ())
    return Verdict(
        (), ("speed and memory on the device: not measured, no such device here; this machine's judge nothing",)
    )


def _judge_numbers(figures: Figures, evidence: Evidence, settings: VariantSettings) -> tuple[list[str], list[str]]:
    bounds = settings.bounds
    most = bounds.max_accuracy_drop_points
    if figures.accuracy is not None:
        drop = figures.accuracy.drop_points
        words = f"accuracy drops by {drop:.2f} points, allowed are {most:g}"
        return ([words] if drop > most else []), []
    if evidence.trained and figures.agreement is not None:
        changed = 100 * (1 - figures.agreement)
        note = f"accuracy not measured ({evidence.unlabelled}); it cannot drop by more points than classes change"
        words = f"the class changes on {changed:.2f} % of the images, allowed are {most:g}"
        return ([words] if changed > most else []), [note]
    note = "untrained: accuracy would mean nothing" if not evidence.trained else "accuracy not measured"
    words = f"the outputs' SQNR is {figures.output_db:.1f} dB, needed are {bounds.min_sqnr_db:g}"
    return ([words] if figures.output_db < bounds.min_sqnr_db else []), [note]


def _judge_speed(figures: Figures, settings: VariantSettings) -> tuple[list[str], list[str]]:
    """Refuse what is slower than the bound beyond the noise of the measurement."""
    found, bound = figures.latency, settings.bounds.min_speedup
    if found is None:
        return [], [f"speed not measured: no {settings.target} device here"]
    if found.speedup_high < bound:
        interval = f"95 % between {found.speedup_low:.2f} and {found.speedup_high:.2f}"
        return [f"its speedup is {found.speedup:.2f} ({interval}), needed is {bound:g}"], []
    if found.speedup_low < bound:
        return [], [f"the speedup of {found.speedup:.2f} cannot be told from {bound:g} within the noise"]
    return [], []
