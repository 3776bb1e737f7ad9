"""A full disk does not damage earlier saves."""

import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest

from zoo.errors import TrainingError
from zoo.runs.load import load_network
from zoo.training.epoch import Step
from zoo.training.results import EpochMetrics
from zoo.training.trainer import train


@contextmanager
def file_size_limit(size):
    """Let writes beyond `size` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 2000], ids=["no-byte", "half-a-file"])
def test_earlier_saves_are_intact_and_the_run_resumes(short_settings, short_run, tmp_path, size):
    """After a failure in the second epoch the first checkpoint is intact, and resuming gives the same weights."""
    run, limits = tmp_path / "run", []
    settings = replace(short_settings, checkpoint_every_steps=5)

    def fill(event):
        if isinstance(event, Step) and (event.epoch, event.batch) == (2, 3):
            limits.append(file_size_limit(size))
            limits[0].__enter__()

    try:
        with pytest.raises(TrainingError, match=r"could not be saved: .*; earlier saves are intact") as caught:
            train(settings, run, fill)
    finally:
        limits[0].__exit__(None, None, None)
    assert caught.value.exit_status == 1
    assert load_network(run / "last").weights.metrics["epoch"] == 1
    assert not [file for file in run.iterdir() if file.name.endswith(".new")]
    events = []
    train(settings, run, events.append, resume=True)
    assert [event.epoch for event in events if isinstance(event, EpochMetrics)] == [2]
    for name in ("last", "best"):
        resumed, expected = (folder / name / "model.safetensors" for folder in (run, short_run))
        assert resumed.read_bytes() == expected.read_bytes()
