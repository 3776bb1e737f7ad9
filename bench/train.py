"""The training loop against a bare one in PyTorch, turn by turn; and ten seeds of the default recipe on digits.

The bare loop does the same steps: the same net, pictures, normalisation, optimiser, learning rates and loss, and reads
each loss; it seeds nothing, saves nothing, measures nothing and shows nothing. Only steps are timed, in CPU seconds of
the process, so that others on the machine count little.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from bench import common
from zoo.catalog import create_model
from zoo.data import load_dataset
from zoo.optimise import make_scheduler
from zoo.progress import ProgressBar
from zoo.session import make_accelerator, prepare
from zoo.settings import TrainSettings
from zoo.steps import steps_of_epoch
from zoo.train import train

SETTINGS = TrainSettings(net="convnet4", data="digits", device="cpu")
TARGET = 0.95


def main() -> None:
    """Measure, and write bench/results/train.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=5, help="in each round, of both loops")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=common.RESULTS)
    options = parser.parse_args()
    speed = compare(options.rounds, options.epochs)
    accuracy = over_seeds(options.seeds)
    common.write("train", {"speed": speed, "accuracy": accuracy}, page(speed, accuracy), options.out)


def compare(rounds: int, epochs: int) -> dict[str, Any]:
    """Images a CPU second of both loops, one thread, and their ratio."""
    torch.set_num_threads(1)
    ours, bare = _ours(), _bare()
    next(ours), next(bare)  # the first steps of a process are slower
    pairs = [(_rate(ours, epochs), _rate(bare, epochs)) for _ in range(rounds)]
    rates, others = [one for one, _ in pairs], [other for _, other in pairs]
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
    numbers = [common.shown(speed["ours"], 0), common.shown(speed["bare"], 0), common.shown(speed["ratio"], 3)]
    seeds = len(accuracy["all"])
    cells = [seeds, f"{accuracy['mean']:.2%}", f"{accuracy['worst']:.2%}", common.shown(accuracy["cpu_s"], 1)]
    return (
        common.machine_line()
        + common.table([f"our loop, images a CPU second; target {TARGET}", "a bare loop", "ratio"], [numbers])
        + "\nThe default recipe, `zoonnx train convnet4 --data digits`; targets 99.0 % and 97.5 %:\n\n"
        + common.table(["seeds", "mean test accuracy", "worst", "CPU seconds a seed"], [cells])
    )


def _rate(epochs_of: Iterator[int], epochs: int) -> float:
    started = time.process_time()
    images = sum(next(epochs_of) for _ in range(epochs))
    return images / (time.process_time() - started)


def _ours() -> Iterator[int]:
    """Epochs of the project's loop, its progress shown; the images that each saw."""
    accelerator = make_accelerator(SETTINGS, Path())
    session = prepare(replace(SETTINGS, epochs=10**6), accelerator, Path())
    epoch = 0
    with ProgressBar(10**6) as progress:
        while True:
            epoch, images = epoch + 1, 0
            for step in steps_of_epoch(session, epoch, done=0):
                progress(step)
                images += step.images
            yield images


def _bare() -> Iterator[int]:
    """Epochs as one writes them by hand."""
    data = load_dataset("digits")
    net = create_model("convnet4", num_classes=10, in_chans=1, img_size=(8, 8)).train()
    optimizer = create_optimizer_v2(net, SETTINGS.optimizer, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    batches = len(data.train) // SETTINGS.batch_size
    scheduler = make_scheduler(optimizer, SETTINGS.lr, batches * 10**6)
    loss_of, step = nn.CrossEntropyLoss(label_smoothing=SETTINGS.label_smoothing), 0
    while True:
        images = 0
        for indices in torch.randperm(len(data.train)).split(SETTINGS.batch_size)[:batches]:
            x = data.preprocessing.normalise(data.train.images[indices])
            loss = loss_of(net(x), data.train.targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss.item())
            step, images = step + 1, images + len(indices)
            scheduler.step_update(step)
        yield images


if __name__ == "__main__":
    main()
