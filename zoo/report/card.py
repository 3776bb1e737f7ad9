"""A model card, RUN/README.md: front matter as the Hugging Face hub reads it, then what a user must know."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from zoo.data.registry import redacted_name
from zoo.evaluation.calibration import measure
from zoo.report.command import command, public, shown_run
from zoo.report.evaluated_run import EvaluatedRun
from zoo.report.metrics import ClassScore, class_scores, mean_average_precision, right_answers
from zoo.report.render import render
from zoo.runs.checkpoint import read_origin
from zoo.storage.atomic_io import write_file
from zoo.transfer.pretrained import Origin

UNKNOWN_LICENCE = "unknown"
FEW_IMAGES = 20
MOST_NAMED = 5


def write_card(file: Path, subject: EvaluatedRun) -> None:
    """Write the card of `subject`, whole or not at all, over one that is there.

    Raises:
        OSError: the file cannot be written.
    """
    write_file(file, card_of(subject))


def card_of(subject: EvaluatedRun) -> bytes:
    """Front matter and text, in UTF-8."""
    evaluation, scores = subject.evaluation, class_scores(subject)
    origin, settings = read_origin(subject.run), public(subject.settings)
    return render(
        "card.md",
        front_matter=front_matter(subject, origin),
        subject=subject,
        data=redacted_name(subject.data.name),
        run=shown_run(subject.run),
        settings=settings,
        command=command(settings, f"{shown_run(subject.run)}-again"),
        right=right_answers(subject),
        mean_average_precision=mean_average_precision(scores),
        calibration=measure(evaluation.logits, evaluation.targets, subject.temperature),
        few=[score.label for score in scores if score.images < FEW_IMAGES],
        weakest=_weakest(scores),
        origin=origin,
    )


def front_matter(subject: EvaluatedRun, origin: Origin) -> str:
    """YAML, by the hub's own library."""
    data, several = redacted_name(subject.data.name), subject.several
    name = data.rpartition(":")[2]
    task = "image-classification" if subject.data.input_size[1] > 1 else "other"
    result = EvalResult(
        task_type=task,
        dataset_type=name,
        dataset_name=name,
        dataset_split=subject.split,
        metric_type="mean_average_precision" if several else "accuracy",
        metric_value=_headline(subject),
    )
    values: dict[str, Any] = {
        "license": origin.licence or UNKNOWN_LICENCE,
        "library_name": "timm" if subject.settings.transfer is None else "zoonnx",
        "tags": [task, "zoonnx", subject.checkpoint.architecture],
        "datasets": [name],
        "metrics": [result.metric_type],
    }
    card = ModelCardData(**values, model_name=f"{subject.checkpoint.architecture}-{name}", eval_results=[result])
    return card.to_yaml()


def _headline(subject: EvaluatedRun) -> float:
    found = mean_average_precision(class_scores(subject)) if subject.several else right_answers(subject).value
    return round(found or 0.0, 6)


def _weakest(scores: list[ClassScore]) -> list[ClassScore]:
    """Classes of which some images are missed, the lowest recall first."""
    missed = [score for score in scores if score.recall is not None and score.recall < 1]
    return sorted(missed, key=lambda score: score.recall or 0.0)[:MOST_NAMED]
