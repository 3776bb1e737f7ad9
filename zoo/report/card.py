"""The model card RUN/README.md: front matter for the Hugging Face hub, then a description for users."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from zoo.data.registry import redacted_name
from zoo.evaluation.calibration import measure
from zoo.report.command import command, shareable_path, without_local_paths
from zoo.report.evaluated_run import EvaluatedRun
from zoo.report.metrics import ClassScore, accuracy, class_scores, mean_average_precision
from zoo.report.render import render
from zoo.runs.checkpoint import read_origin
from zoo.storage.atomic_io import write_file
from zoo.transfer.pretrained import Origin

UNKNOWN_LICENCE = "unknown"
FEW_IMAGES = 20
MAX_WEAK_CLASSES = 5


def write_card(file: Path, evaluated: EvaluatedRun) -> None:
    """Write the model card atomically, replacing an existing one.

    Raises:
        OSError: the file cannot be written.
    """
    write_file(file, render_card(evaluated))


def render_card(evaluated: EvaluatedRun) -> bytes:
    """Return the front matter and the text, in UTF-8."""
    evaluation, scores = evaluated.evaluation, class_scores(evaluated)
    origin, settings = read_origin(evaluated.run), without_local_paths(evaluated.settings)
    run = shareable_path(evaluated.run)
    return render(
        "card.md",
        front_matter=front_matter(evaluated, origin),
        evaluated=evaluated,
        data=redacted_name(evaluated.data.name),
        run=run,
        settings=settings,
        command=command(settings, f"{run}-again"),
        accuracy=accuracy(evaluated),
        mean_average_precision=mean_average_precision(scores),
        calibration=measure(evaluation.logits, evaluation.targets, evaluated.temperature),
        small_classes=[score.label for score in scores if score.images < FEW_IMAGES],
        weakest=_weakest(scores),
        origin=origin,
    )


def front_matter(evaluated: EvaluatedRun, origin: Origin) -> str:
    """Return the hub's metadata as YAML, written by the hub's own library."""
    data = redacted_name(evaluated.data.name)
    name = data.rpartition(":")[2]
    task = "image-classification" if evaluated.data.input_size[1] > 1 else "other"
    result = EvalResult(
        task_type=task,
        dataset_type=name,
        dataset_name=name,
        dataset_split=evaluated.split,
        metric_type="mean_average_precision" if evaluated.is_multi_label else "accuracy",
        metric_value=_headline_metric(evaluated),
    )
    values: dict[str, Any] = {
        "license": origin.licence or UNKNOWN_LICENCE,
        "library_name": "timm" if evaluated.settings.transfer is None else "zoonnx",
        "tags": [task, "zoonnx", evaluated.checkpoint.architecture],
        "datasets": [name],
        "metrics": [result.metric_type],
    }
    card = ModelCardData(**values, model_name=f"{evaluated.checkpoint.architecture}-{name}", eval_results=[result])
    return card.to_yaml()


def _headline_metric(evaluated: EvaluatedRun) -> float:
    if evaluated.is_multi_label:
        return round(mean_average_precision(class_scores(evaluated)) or 0.0, 6)
    return round(accuracy(evaluated).value, 6)


def _weakest(scores: list[ClassScore]) -> list[ClassScore]:
    """Return the classes with a recall below 1, the lowest first."""
    imperfect = [score for score in scores if score.recall is not None and score.recall < 1]
    return sorted(imperfect, key=lambda score: score.recall or 0.0)[:MAX_WEAK_CLASSES]
