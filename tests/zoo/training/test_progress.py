"""The progress bar."""

import io

from rich.console import Console

from zoo.training.epoch import Step
from zoo.training.progress import ProgressBar


def test_the_last_step_is_always_shown() -> None:
    """Of many steps in quick succession, at least the first and the last of an epoch are shown."""
    out = io.StringIO()
    with ProgressBar(2, "fold 1 of 5, ", Console(file=out, width=120)) as progress:
        for epoch in (1, 2):
            for batch in range(1, 101):
                progress(Step(epoch, batch, batches=100, images=32, loss=1 / batch, lr=0.1))
    (line,) = out.getvalue().splitlines()
    assert line.startswith("fold 1 of 5, epoch 2/2")
    assert "loss 0.010" in line
    assert "- images/s" not in line
