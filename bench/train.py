"""The training loop against a bare one in PyTorch, turn by turn; and ten seeds of the default recipe on digits.

The bare loop does the same steps: the same network, images, normalisation, optimiser, learning rates and loss, and reads
each loss; it seeds nothing, saves nothing, measures nothing and tells nobody. Ours tells its progress bar, which is not
drawn. Only steps are timed, in CPU seconds of the process, so that others on the machine count little; in short turns,
first one loop, then the other, then the other way round, so that what the machine does meanwhile meets both alike.
"""

import argparse
import gc
import io
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from timm.optim import create_optimizer_v2
from torch import nn

from bench import common
from zoo.catalog import create_model
from zoo.data.registry import load_dataset
from zoo.settings import TrainSettings
from zoo.training.context import make_accelerator, prepare
from zoo.training.epoch import steps_of_epoch
from zoo.training.optim import make_scheduler
from zoo.training.progress import ProgressBar
from zoo.training.trainer import train

SETTINGS = TrainSettings(network="convnet4", data="digits", device="cpu")
TURN = 10  # steps
TARGET, LEAST_MEAN, LEAST_WORST = 0.95, 0.99, 0.975


def main() -> None:
    """Measure, and write bench/results/train.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400, help=f"of turns, {TURN} steps each")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=common.RESULTS)
    options = parser.parse_args()
    speed = compare(options.pairs)
    accuracy = over_seeds(options.seeds)
    common.write("train", {"speed": speed, "accuracy": accuracy}, page(speed, accuracy), options.out)


def compare(pairs: int) -> dict[str, Any]:
    """Images a CPU second of both loops, one thread, and their ratio."""
    torch.set_num_threads(1)
    ours, bare = _ours(), _bare()
    _rate(ours), _rate(bare)  # the first steps of a process are slower
    turns = [_turn(ours, bare, swapped=pair % 2 == 1) for pair in range(pairs)]
    rates, others = [one for one, _ in turns], [other for _, other in turns]
    return {"ours": common.summary(rates), "bare": common.summary(others), "ratio": common.ratios(rates, others)}


def over_seeds(seeds: int) -> dict[str, Any]:
    """Test accuracy and CPU seconds of the default recipe."""
    torch.set_num_threads(1)
    found, seconds = [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            found.append(train(replace(SETTINGS, seed=seed), Path(folder) / "run").test_accuracy)
            seconds.append(time.process_time() - started)
    return {"mean": sum(found) / len(found), "worst": min(found), "all": found, "cpu_s": common.summary(seconds)}


def page(speed: dict[str, Any], accuracy: dict[str, Any]) -> str:
    """The results for people."""
    ratio, seeds = speed["ratio"], len(accuracy["all"])
    numbers = [common.shown(speed["ours"], 0), common.shown(speed["bare"], 0), common.shown(ratio, 3)]
    cells = [seeds, f"{accuracy['mean']:.2%}", f"{accuracy['worst']:.2%}", common.shown(accuracy["cpu_s"], 1)]
    return (
        common.machine_line()
        + common.table(["our loop, images a CPU second", "a bare loop", "median ratio of pairs"], [numbers])
        + f"\n{ratio['values']} pairs of turns; a ratio of at least {TARGET}: {_verdict(ratio['median'] >= TARGET)}.\n"
        + "\nThe default recipe, `zoonnx train convnet4 --data digits`:\n\n"
        + common.table(["seeds", "mean test accuracy", "worst", "CPU seconds a seed"], [cells])
        + f"\nAt least {LEAST_MEAN:.1%} and {LEAST_WORST:.1%}: "
        + f"{_verdict(accuracy['mean'] >= LEAST_MEAN and accuracy['worst'] >= LEAST_WORST)}.\n"
    )


def _verdict(holds: bool) -> str:
    return "reached" if holds else "NOT reached"


def _turn(ours: Iterator[int], bare: Iterator[int], *, swapped: bool) -> tuple[float, float]:
    if swapped:
        other = _rate(bare)
        return _rate(ours), other
    return _rate(ours), _rate(bare)


def _rate(steps: Iterator[int]) -> float:
    gc.collect()  # each turn has only its own garbage
    started = time.process_time()
    images = sum(itertools.islice(steps, TURN))
    return images / (time.process_time() - started)


def _ours() -> Iterator[int]:
    """The project's loop, step by step; the images that each saw."""
    accelerator = make_accelerator(SETTINGS, Path())
    session = prepare(replace(SETTINGS, epochs=10**6), accelerator, Path())
    with ProgressBar(10**6, console=Console(file=io.StringIO())) as progress:
        for epoch in itertools.count(1):
            for step in steps_of_epoch(session, epoch, done=0):
                progress(step)
                yield step.images


def _bare() -> Iterator[int]:
    """The same as one writes it by hand."""
    data = load_dataset("digits")
    network = create_model("convnet4", num_classes=10, in_chans=1, img_size=(8, 8)).train()
    optimizer = create_optimizer_v2(network, SETTINGS.optimizer, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    batches = len(data.train) // SETTINGS.batch_size
    scheduler = make_scheduler(optimizer, SETTINGS.lr, batches * 10**6)
    loss_of, step = nn.CrossEntropyLoss(label_smoothing=SETTINGS.label_smoothing), 0
    while True:
        for indices in torch.randperm(len(data.train)).split(SETTINGS.batch_size)[:batches]:
            x = data.preprocessing.normalise(data.train.images[indices])
            loss = loss_of(network(x), data.train.targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss.item())
            yield len(indices)
            step += 1
            scheduler.step_update(step)


if __name__ == "__main__":
    main()
