"""The transfer curve: what a net that knows the digits 0 to 4 makes of a few pictures of 5 to 9.

For each number of pictures a class, and each of some seeds, the same pictures train a new net from scratch and a new
head on the pretrained one, with all the rest of it. Either side has three recipes, and takes the one that is best on
the validation pictures of 5 to 9 over all seeds: from scratch for three budgets of epochs, tuned by three schedules.
The test pictures measure what was taken; they choose nothing. The page it writes is docs/transfer.md.
"""

import argparse
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from bench.common import ROOT, machine_line, table, write
from zoo.chart import Chart, Line
from zoo.data import DATASETS, Dataset, load_dataset
from zoo.files import write_file
from zoo.settings import TrainSettings, Transfer
from zoo.splits import MemorySplit
from zoo.train import train

PER_CLASS = (1, 2, 5, 20)
NET, BATCH_SIZE = "convnet4", 32
# Smoothed targets draw the pictures of a class together, which hides what else tells them apart.
PRETRAINING = TrainSettings(net=NET, data="pretrain", epochs=30, label_smoothing=0.0, max_shift_px=1, device="cpu")
SCRATCH_EPOCHS = (20, 60, 120)
SCRATCH = {
    f"scratch, {epochs} epochs": TrainSettings(
        net=NET, data="few", epochs=epochs, batch_size=BATCH_SIZE, max_shift_px=1, device="cpu"
    )
    for epochs in SCRATCH_EPOCHS
}
SCHEDULES = ("probe", "head-then-all", "gradual")
TUNE_EPOCHS = 60


def main() -> None:
    """Measure, and write docs/transfer.md and .png, and bench/results/transfer.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = curve(Path(folder), options.seeds)
    write("transfer", rows, page(rows, options.seeds))
    write_file(ROOT / "docs" / "transfer.png", picture(rows))
    write_file(ROOT / "docs" / "transfer.md", document(rows, options.seeds).encode())


def curve(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """For each number of pictures a class, both sides' accuracies on the test pictures, in percent, seed by seed."""
    with known(pretrain=digits(range(5))):
        train(PRETRAINING, folder / "pretrained")
    return [reached(folder, count, seeds) for count in PER_CLASS]


def reached(folder: Path, count: int, seeds: int) -> dict[str, Any]:
    """What either side reaches with `count` pictures a class, and what each of its recipes measured."""
    recipes = SCRATCH | tuning(folder / "pretrained")
    found = {name: measured(recipe, folder / f"{count}" / name, count, seeds) for name, recipe in recipes.items()}
    sides = {"scratch": [*SCRATCH], "tuned": [name for name in found if name not in SCRATCH]}
    return {"per_class": count, **{side: best(found, names) for side, names in sides.items()}, "recipes": found}


def tuning(pretrained: Path) -> dict[str, TrainSettings]:
    """Every schedule; the head learns as a net from scratch does, the layers before it ever more slowly."""
    common = TrainSettings(
        net=str(pretrained),
        data="few",
        epochs=TUNE_EPOCHS,
        batch_size=BATCH_SIZE,
        lr=1e-2,
        weight_decay=0.05,
        layer_decay=0.75,
        max_shift_px=1,
        device="cpu",
    )
    return {f"tuned, {name}": replace(common, transfer=Transfer(schedule=name)) for name in SCHEDULES}


def measured(recipe: TrainSettings, folder: Path, count: int, seeds: int) -> dict[str, list[float]]:
    """Accuracy in percent on validation and test pictures, for each seed, which also draws the pictures to train on."""
    found: dict[str, list[float]] = {"val": [], "test": []}
    for seed in range(seeds):
        with known(few=few_of(digits(range(5, 10)), count, seed)):
            result = train(replace(recipe, seed=seed), folder / str(seed))
        found["val"].append(100 * result.best.val_accuracy)
        found["test"].append(100 * result.test_accuracy)
    return found


def best(found: dict[str, dict[str, list[float]]], names: Any) -> dict[str, Any]:
    """The recipe of the highest mean accuracy on validation pictures, and its accuracies on test pictures."""
    name = max(sorted(names), key=lambda each: mean(found[each]["val"]))
    return {"recipe": name, "test": found[name]["test"]}


def digits(classes: range) -> Dataset:
    """The digits of some classes only."""
    data = load_dataset("digits")

    def only(split: Any) -> MemorySplit:
        chosen = (split.targets >= classes.start) & (split.targets < classes.stop)
        return MemorySplit(split.images[chosen], split.targets[chosen] - classes.start)

    labels = data.labels[classes.start : classes.stop]
    return replace(data, labels=labels, train=only(data.train), val=only(data.val), test=only(data.test))


def few_of(data: Dataset, count: int, seed: int) -> Dataset:
    """The same with `count` training pictures of each class, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)
    targets = data.train.targets[order]
    chosen = torch.cat([order[targets == label][:count] for label in range(len(data.labels))])
    images: Any = data.train
    return replace(data, train=MemorySplit(images.images[chosen], images.targets[chosen]))


@contextmanager
def known(**datasets: Dataset) -> Iterator[None]:
    """Let data sets be known by these names."""
    for name, data in datasets.items():
        DATASETS[name] = partial(replace, data, name=name)
    try:
        yield
    finally:
        for name in datasets:
            del DATASETS[name]


def page(rows: list[dict[str, Any]], seeds: int) -> str:
    """The results for people."""
    head = ["pictures a class", "from scratch", "tuned", "tuned ahead by", "which"]
    return machine_line(f"{seeds} seeds; mean ± standard deviation, test accuracy in %") + table(head, map_rows(rows))


def map_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    cells = []
    for row in rows:
        shown = [f"{mean(row[side]['test']):.1f} ± {stdev(row[side]['test']):.1f}" for side in ("scratch", "tuned")]
        chosen = f"{row['scratch']['recipe']}; {row['tuned']['recipe']}"
        cells.append([str(row["per_class"]), *shown, f"{ahead(row):+.1f}", chosen])
    return cells


def ahead(row: dict[str, Any]) -> float:
    return mean(row["tuned"]["test"]) - mean(row["scratch"]["test"])


def wins(row: dict[str, Any]) -> int:
    """In how many seeds tuning is strictly better, on the same training pictures."""
    return sum(one > other for one, other in zip(row["tuned"]["test"], row["scratch"]["test"], strict=True))


def picture(rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for side, name in (("scratch", "from scratch"), ("tuned", "tuned")):
        points = [(row["per_class"], mean(row[side]["test"])) for row in rows]
        bounds = [(min(row[side]["test"]), max(row[side]["test"])) for row in rows]
        lines.append(Line(name, points, bounds))
    drawn = Chart(
        "Digits 5 to 9, after 0 to 4 or from scratch", "training pictures a class", "test accuracy, %", lines, PER_CLASS
    )
    data = io.BytesIO()
    drawn.draw().save(data, "PNG")
    return data.getvalue()


def document(rows: list[dict[str, Any]], seeds: int) -> str:
    """docs/transfer.md."""
    sentences = " ".join(sentence(row, seeds) for row in rows)
    return f"""# When a pretrained net helps

Made by `python -m bench.transfer`, part of `make bench`. `{NET}` learns the digits 0 to 4; then it is tuned on a few
pictures of 5 to 9, beside a new net that starts from scratch with the same pictures.

{page(rows, seeds)}
![Test accuracy over the training pictures a class; the bars reach from the worst seed to the best](transfer.png)

{sentences}

Each side takes one of three recipes, by the mean accuracy on the validation pictures of 5 to 9: from scratch for
{" or ".join(map(str, SCRATCH_EPOCHS))} epochs, tuned for {TUNE_EPOCHS} by the schedules {", ".join(SCHEDULES)}.
The test pictures choose nothing. That both sides choose with more labelled pictures than they learn from is kind to
both alike. The seed draws the training pictures as well as the weights, so most of the spread at one picture a class is
which picture it was. The digits are small and alike: how much a pretrained net helps elsewhere depends on how near its
task is to the new one.
"""


def sentence(row: dict[str, Any], seeds: int) -> str:
    """Who is ahead, plainly."""
    count, points = row["per_class"], ahead(row)
    pictures = f"At {count} picture{'s' if count > 1 else ''} a class"
    if abs(points) < 0.5:
        return f"{pictures} neither is ahead ({points:+.1f} points)."
    who = "tuning is ahead" if points > 0 else "tuning is **not** ahead: from scratch is better"
    return f"{pictures} {who} by {abs(points):.1f} points; tuning is better in {wins(row)} of {seeds} seeds."


if __name__ == "__main__":
    main()
