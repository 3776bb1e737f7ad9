"""Accepts or rejects a variant by its measurements."""

from dataclasses import dataclass

from export.variants.eval_data import EvalData
from export.variants.measure import MAX_DB, Measurements
from export.variants.settings import SERVABLE, Kind, VariantSettings

EQUAL_DB = 80.0  # minimum SQNR of ort and fixed, which compute the same numbers in another order


@dataclass(frozen=True)
class Verdict:
    """Whether a variant is accepted.

    Attributes:
        reasons: Why it is rejected; empty if it is accepted.
        notes: Criteria that were not applied, with the reason.
    """

    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return not self.reasons


def judge(kind: Kind, measured: Measurements, eval_data: EvalData, settings: VariantSettings) -> Verdict:
    """Judge a servable variant by the acceptance bounds, and files for devices by the original's outputs."""
    if kind not in SERVABLE:
        return _judge_equality(measured)
    if measured.output_db <= -MAX_DB:
        return Verdict(("an output is not finite, or has nothing of the original's signal",), ())
    quality_reasons, quality_notes = _judge_quality(measured, eval_data, settings)
    speed_reasons, speed_notes = _judge_speed(measured, settings)
    reasons = [*quality_reasons, *speed_reasons]
    if reasons and measured.worst_layer:
        layer, db = measured.worst_layer
        reasons.append(f"the worst layer is '{layer}' with {db:.1f} dB")
    return Verdict(tuple(reasons), (*quality_notes, *speed_notes))


def _judge_equality(measured: Measurements) -> Verdict:
    if measured.output_db < EQUAL_DB:
        return Verdict((f"outputs differ from the original's: SQNR {measured.output_db:.1f} dB",), ())
    return Verdict((), ("latency and memory were measured on this machine, not on a device, and are not judged",))


def _judge_quality(
    measured: Measurements, eval_data: EvalData, settings: VariantSettings
) -> tuple[list[str], list[str]]:
    """Return reasons to reject and notes, by accuracy, else by equal predictions, else by SQNR."""
    bounds = settings.bounds
    max_drop = bounds.max_accuracy_drop_points
    if measured.accuracy is not None:
        drop = measured.accuracy.drop_points
        reason = f"accuracy drops by {drop:.2f} points (limit {max_drop:g})"
        return ([reason] if drop > max_drop else []), []
    if eval_data.is_trained and measured.agreement is not None:
        changed = 100 * (1 - measured.agreement)
        note = (
            f"accuracy not measured ({eval_data.unlabelled_reason}); it cannot drop by more points than the "
            "percentage of changed predictions"
        )
        reason = f"the prediction changes on {changed:.2f} % of the images (limit {max_drop:g})"
        return ([reason] if changed > max_drop else []), [note]
    note = "accuracy not measured" if eval_data.is_trained else "untrained: accuracy would be meaningless"
    reason = f"SQNR of the outputs is {measured.output_db:.1f} dB (minimum {bounds.min_sqnr_db:g})"
    return ([reason] if measured.output_db < bounds.min_sqnr_db else []), [note]


def _judge_speed(measured: Measurements, settings: VariantSettings) -> tuple[list[str], list[str]]:
    """Return reasons to reject and notes; a variant is rejected only if it is slower beyond measurement noise."""
    latency, minimum = measured.latency, settings.bounds.min_speedup
    if latency is None:
        return [], [f"speed not measured: no {settings.target} device here"]
    if latency.speedup_high < minimum:
        interval = f"95 % interval {latency.speedup_low:.2f} to {latency.speedup_high:.2f}"
        return [f"speedup is {latency.speedup:.2f} ({interval}), minimum {minimum:g}"], []
    if latency.speedup_low < minimum:
        return [], [
            f"speedup is {latency.speedup:.2f}, equal to the minimum {minimum:g} within the measurement's noise"
        ]
    return [], []
