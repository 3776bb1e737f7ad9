"""A network to export, with what is known of it; unlike zoo's LoadedNetwork, it need not accept images."""

from dataclasses import dataclass
from typing import Self

from torch import nn

from zoo import LoadedNetwork
from zoo.data.targets import Task
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import WeightsSource


@dataclass(frozen=True)
class SourceNetwork:
    """A network in evaluation mode.

    Attributes:
        network: The network; its logits are for a softmax, or with the task "multi-label" for a sigmoid each.
        name: Name of the run's folder, of the network, or of the function or class that made it.
        architecture: Name of the network, or of its backbone.
        labels: Names of the classes by index. Empty: unknown.
        preprocessing: What the network expects of an image. None: its inputs are described otherwise.
        weights: Where its weights came from.
        task: Whether an image has one label or several.
    """

    network: nn.Module
    name: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    weights: WeightsSource
    task: Task = "single-label"

    @classmethod
    def of(cls, loaded: LoadedNetwork) -> Self:
        """Return a network that zoo has loaded."""
        return cls(
            loaded.network,
            loaded.name,
            loaded.architecture,
            loaded.labels,
            loaded.preprocessing,
            loaded.weights,
            loaded.task,
        )
