"""What a run measures, sent to a tracker by accelerate: TensorBoard in RUN/tensorboard, W&B, MLflow.

RUN/metrics.jsonl holds the same in any case.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator

from zoo.errors import SettingsError
from zoo.settings import Tracker, TrainSettings

PROJECT = "zoonnx"
SCALARS = (bool, int, float, str)


def check_tracker(track: Tracker) -> None:
    """Require that the tracker's package is there.

    Raises:
        SettingsError: it is not; accelerate would leave it out without a word.
    """
    if track != "none" and importlib.util.find_spec(track) is None:
        raise SettingsError(f"the tracker '{track}' is not installed; pip install 'zoonnx[{track}]' brings it")


@contextmanager
def trackers(accelerator: Accelerator, settings: TrainSettings) -> Iterator[None]:
    """Begin the tracker that was asked for, with the settings, and end it whatever happens."""
    if settings.track == "none":
        yield
        return
    project = settings.track if settings.track == "tensorboard" else PROJECT  # which is its folder in the run's
    accelerator.init_trackers(project, config=_plain(settings))
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _plain(settings: TrainSettings) -> dict[str, Any]:
    values = settings.to_json()
    flat = {name: value for name, value in values.items() if name != "transfer"} | (values["transfer"] or {})
    return {name: value if isinstance(value, SCALARS) else str(value) for name, value in flat.items()}
