"""A run together with the evaluation of one of its checkpoints: the subject of a report or model card."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from zoo.data.dataset import Dataset
from zoo.data.splits import Split
from zoo.evaluation.calibration import probabilities
from zoo.evaluation.evaluate import Evaluation
from zoo.report.environment import device_name
from zoo.runs.checkpoint import Checkpoint, read_checkpoint, read_settings
from zoo.runs.load import run_and_checkpoint_folders
from zoo.settings import SplitName, TrainSettings


@dataclass(frozen=True)
class EvaluatedRun:
    """A checkpoint of a run and its evaluation on one split.

    Attributes:
        run: the run's folder.
        settings: the run's settings.
        checkpoint: metadata and metrics of the evaluated checkpoint.
        data: the dataset with its images, even if the run was trained on cached features.
        split: the evaluated split of `data`.
        evaluation: the network's outputs on that split.
        parameters: number of parameters of the network.
        device: description of the device that the evaluation ran on.
    """

    run: Path
    settings: TrainSettings
    checkpoint: Checkpoint
    data: Dataset
    split: SplitName
    evaluation: Evaluation
    parameters: int
    device: str

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels; the targets are then 0 or 1 per label."""
        return self.evaluation.targets.ndim == 2

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities without temperature scaling: float64 (N, classes)."""
        return probabilities(self.evaluation.logits, self.evaluation.targets)

    @property
    def images(self) -> Split:
        """The images of the evaluated split."""
        return self.data.split(self.split)

    @property
    def temperature(self) -> float | None:
        """The temperature fitted on the validation split at the end of the run, or None."""
        return self.checkpoint.metrics.get("temperature")


def evaluated_run_of(
    folder: Path, network: nn.Module, data: Dataset, split: SplitName, evaluation: Evaluation
) -> EvaluatedRun:
    """Combine an evaluation with the files of the run, or of the single checkpoint, in `folder`.

    `network` is the evaluated network.

    Raises:
        CheckpointError: the run is incomplete.
    """
    run, checkpoint = run_and_checkpoint_folders(folder)
    return EvaluatedRun(
        run=run,
        settings=read_settings(run),
        checkpoint=read_checkpoint(checkpoint),
        data=data,
        split=split,
        evaluation=evaluation,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        device=device_name(next(network.parameters()).device),
    )
