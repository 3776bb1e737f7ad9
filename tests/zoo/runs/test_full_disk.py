"""A disk that fills up takes nothing that was saved."""

import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest

from zoo.errors import TrainingError
from zoo.runs.load import load_network
from zoo.training.trainer import EpochMetrics, Step, train


@contextmanager
def little_room(size):
    """The system refuses to write any file further than `size` bytes, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 2000], ids=["no-byte", "half-a-file"])
def test_what_was_saved_stays_and_the_run_goes_on(short_settings, short_run, tmp_path, size):
    """In the second epoch: a sentence, the first epoch's checkpoint whole, no leftovers, the same weights."""
    run, room = tmp_path / "run", []
    settings = replace(short_settings, checkpoint_every_steps=5)

    def fill(event):
        if isinstance(event, Step) and (event.epoch, event.batch) == (2, 3):
            room.append(little_room(size))
            room[0].__enter__()

    try:
        with pytest.raises(TrainingError, match=r"could not be saved: .*; what was saved before is whole") as caught:
            train(settings, run, fill)
    finally:
        room[0].__exit__(None, None, None)
    assert caught.value.exit_status == 1
    assert load_network(run / "last").weights.metrics["epoch"] == 1
    assert not [file for file in run.iterdir() if file.name.endswith(".new")]
    seen = []
    train(settings, run, seen.append, resume=True)
    assert [event.epoch for event in seen if isinstance(event, EpochMetrics)] == [2]
    for name in ("last", "best"):
        again, expected = (each / name / "model.safetensors" for each in (run, short_run))
        assert again.read_bytes() == expected.read_bytes()
