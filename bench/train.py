"""Compare the training loop with a minimal loop in plain PyTorch; measure ten seeds of the default recipe on digits.

The minimal loop makes the same steps: same network, images, normalisation, optimiser, learning rates and loss, and it
reads each loss. It does not seed, save, evaluate or report anything. The project's loop updates its progress bar, which
is not drawn. Only the steps are timed, in CPU seconds of the process, so that other load on the machine counts little.
The loops alternate in short turns, in alternating order, so that changes of the machine's speed affect both alike.
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
from zoo.training.context import build_context
from zoo.training.device import make_accelerator
from zoo.training.epoch import steps_of_epoch
from zoo.training.optim import make_scheduler
from zoo.training.progress import ProgressBar
from zoo.training.trainer import train

SETTINGS = TrainSettings(network="convnet4", data="digits", device="cpu")
STEPS_PER_TURN = 10
MIN_RATIO, MIN_MEAN_ACCURACY, MIN_WORST_ACCURACY = 0.95, 0.99, 0.975


def main() -> None:
    """Measure, and write bench/results/train.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400, help=f"pairs of turns, {STEPS_PER_TURN} steps each")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=common.RESULTS)
    options = parser.parse_args()
    speed = compare(options.pairs)
    accuracy = measure_seeds(options.seeds)
    common.write("train", {"speed": speed, "accuracy": accuracy}, page(speed, accuracy), options.out)


def compare(pairs: int) -> dict[str, Any]:
    """Return images per CPU second of both loops, on one thread, and their ratio."""
    torch.set_num_threads(1)
    ours, minimal = _our_loop(), _minimal_loop()
    _images_per_s(ours), _images_per_s(minimal)  # the first steps of a process are slower
    turns = [_pair_of_turns(ours, minimal, swapped=pair % 2 == 1) for pair in range(pairs)]
    our_rates, minimal_rates = [rate for rate, _ in turns], [rate for _, rate in turns]
    return {
        "ours": common.summary(our_rates),
        "bare": common.summary(minimal_rates),
        "ratio": common.ratios(our_rates, minimal_rates),
    }


def measure_seeds(seeds: int) -> dict[str, Any]:
    """Return test accuracy and CPU seconds of the default recipe, by seed."""
    torch.set_num_threads(1)
    accuracies, seconds = [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            accuracies.append(train(replace(SETTINGS, seed=seed), Path(folder) / "run").test_accuracy)
            seconds.append(time.process_time() - started)
    mean_accuracy = sum(accuracies) / len(accuracies)
    return {"mean": mean_accuracy, "worst": min(accuracies), "all": accuracies, "cpu_s": common.summary(seconds)}


def page(speed: dict[str, Any], accuracy: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    ratio, seeds = speed["ratio"], len(accuracy["all"])
    numbers = [
        common.format_summary(speed["ours"], 0),
        common.format_summary(speed["bare"], 0),
        common.format_summary(ratio, 3),
    ]
    cells = [seeds, f"{accuracy['mean']:.2%}", f"{accuracy['worst']:.2%}", common.format_summary(accuracy["cpu_s"], 1)]
    return (
        common.machine_line()
        + common.table(["our loop, images per CPU second", "minimal loop", "median ratio of pairs"], [numbers])
        + f"\n{ratio['values']} pairs of turns; "
        + f"a ratio of at least {MIN_RATIO}: {_verdict(ratio['median'] >= MIN_RATIO)}.\n"
        + "\nThe default recipe, `zoonnx train convnet4 --data digits`:\n\n"
        + common.table(["seeds", "mean test accuracy", "worst", "CPU seconds per seed"], [cells])
        + f"\nAt least {MIN_MEAN_ACCURACY:.1%} and {MIN_WORST_ACCURACY:.1%}: "
        + f"{_verdict(accuracy['mean'] >= MIN_MEAN_ACCURACY and accuracy['worst'] >= MIN_WORST_ACCURACY)}.\n"
    )


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "NOT reached"


def _pair_of_turns(ours: Iterator[int], minimal: Iterator[int], *, swapped: bool) -> tuple[float, float]:
    if swapped:
        minimal_rate = _images_per_s(minimal)
        return _images_per_s(ours), minimal_rate
    return _images_per_s(ours), _images_per_s(minimal)


def _images_per_s(steps: Iterator[int]) -> float:
    gc.collect()  # exclude the previous turn's garbage from the measurement
    started = time.process_time()
    images = sum(itertools.islice(steps, STEPS_PER_TURN))
    return images / (time.process_time() - started)


def _our_loop() -> Iterator[int]:
    """Run the project's loop; yield the number of images of each step."""
    accelerator = make_accelerator(SETTINGS, Path())
    context = build_context(replace(SETTINGS, epochs=10**6), accelerator, Path())
    with ProgressBar(10**6, console=Console(file=io.StringIO())) as progress:
        for epoch in itertools.count(1):
            for step in steps_of_epoch(context, epoch, completed=0):
                progress(step)
                yield step.images


def _minimal_loop() -> Iterator[int]:
    """Run the same steps as written by hand; yield the number of images of each step."""
    dataset = load_dataset("digits")
    network = create_model("convnet4", num_classes=10, in_chans=1, img_size=(8, 8)).train()
    optimizer = create_optimizer_v2(network, SETTINGS.optimizer, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    batches = len(dataset.train) // SETTINGS.batch_size
    scheduler = make_scheduler(optimizer, SETTINGS.lr, batches * 10**6)
    loss_function, step = nn.CrossEntropyLoss(label_smoothing=SETTINGS.label_smoothing), 0
    while True:
        for indices in torch.randperm(len(dataset.train)).split(SETTINGS.batch_size)[:batches]:
            x = dataset.preprocessing.normalise(dataset.train.images[indices])
            loss = loss_function(network(x), dataset.train.targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss.item())
            yield len(indices)
            step += 1
            scheduler.step_update(step)


if __name__ == "__main__":
    main()
