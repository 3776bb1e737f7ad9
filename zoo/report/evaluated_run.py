"""What a page or a card is about."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from zoo.data.registry import Dataset
from zoo.data.splits import Split
from zoo.evaluation.calibration import probabilities
from zoo.evaluation.evaluate import Evaluation
from zoo.report.environment import device_name
from zoo.runs.checkpoint import Checkpoint, read_checkpoint, read_settings
from zoo.runs.load import places_of
from zoo.settings import SplitName, TrainSettings


@dataclass(frozen=True)
class EvaluatedRun:
    """A checkpoint of a run, and what it made of a split of `data`; `device` is where it was computed, in words.

    `data` holds images, also where the run learned from stored features.
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
    def several(self) -> bool:
        """Whether an image may have several labels; its targets are then 0 and 1 for each."""
        return self.evaluation.targets.ndim == 2

    @cached_property
    def probabilities(self) -> Tensor:
        """As the network was trained, without a temperature: float64 (N, classes)."""
        return probabilities(self.evaluation.logits, self.evaluation.targets)

    @property
    def images(self) -> Split:
        """The images of the evaluation."""
        return self.data.split(self.split)

    @property
    def temperature(self) -> float | None:
        """The one that the run's end fitted on its validation split, if it did."""
        return self.checkpoint.metrics.get("temperature")


def examine(folder: Path, network: nn.Module, data: Dataset, split: SplitName, evaluation: Evaluation) -> EvaluatedRun:
    """Put together what is known of the run, or of the one checkpoint, in `folder`; `network` has its weights.

    Raises:
        CheckpointError: the run is incomplete.
    """
    run, checkpoint = places_of(folder)
    return EvaluatedRun(
        run=run,
        settings=read_settings(run),
        checkpoint=read_checkpoint(checkpoint),
        data=data,
        split=split,
        evaluation=evaluation,
        parameters=sum(each.numel() for each in network.parameters()),
        device=device_name(next(network.parameters()).device),
    )
