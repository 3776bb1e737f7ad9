"""Experiment trackers, driven by accelerate: TensorBoard in RUN/tensorboard, Weights & Biases, MLflow.

RUN/metrics.jsonl contains the epochs' metrics with or without a tracker.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator

from zoo.errors import SettingsError
from zoo.settings import Tracker, TrainSettings

PROJECT = "zoonnx"
HYPERPARAMETER_TYPES = (bool, int, float, str)


def check_tracker(track: Tracker) -> None:
    """Require that the tracker's package is installed.

    Raises:
        SettingsError: It is not; accelerate would silently log nothing.
    """
    if track != "none" and importlib.util.find_spec(track) is None:
        raise SettingsError(f"the tracker '{track}' is not installed; run: pip install 'zoonnx[{track}]'")


@contextmanager
def trackers(accelerator: Accelerator, settings: TrainSettings) -> Iterator[None]:
    """Start the tracker of `settings`, if any, with the settings as hyperparameters; finish it in any case."""
    if settings.track == "none":
        yield
        return
    # TensorBoard's project name is the folder inside the run.
    project = settings.track if settings.track == "tensorboard" else PROJECT
    accelerator.init_trackers(project, config=_hyperparameters(settings))
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def log_metrics(accelerator: Accelerator, values: dict[str, float], step: int) -> None:
    """Send values to the trackers, if any, under the number of the optimiser step."""
    if accelerator.trackers:
        accelerator.log(values, step=step)


def _hyperparameters(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings as one flat mapping of scalars; other values as text."""
    values = settings.to_json()
    flat = {name: value for name, value in values.items() if name != "transfer"} | (values["transfer"] or {})
    return {name: value if isinstance(value, HYPERPARAMETER_TYPES) else str(value) for name, value in flat.items()}
