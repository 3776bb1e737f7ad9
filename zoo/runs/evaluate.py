"""Evaluation of a run, or of any loaded network, on a dataset by name."""

from pathlib import Path

from zoo.data.registry import find_data
from zoo.evaluation.evaluate import Evaluation, evaluate
from zoo.runs.load import LoadedNetwork, load_network
from zoo.settings import SplitName


def evaluate_run(network: LoadedNetwork | Path | str, data: str, split: SplitName = "test") -> Evaluation:
    """Evaluate a network on one split of a dataset.

    Args:
        network: what `load_network` returns, a run's folder, or a network's name.
        data: a dataset's name; see docs/data.md.
        split: train, val or test.

    Raises:
        ZooError: the network or the dataset does not exist, or they do not fit each other.
    """
    loaded = network if isinstance(network, LoadedNetwork) else load_network(network)
    dataset = find_data(data).for_network(loaded.preprocessing)
    dataset.check_fits(loaded.labels, loaded.preprocessing, loaded.task)
    return evaluate(loaded.network, dataset.split(split), loaded.preprocessing)
