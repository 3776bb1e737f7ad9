"""The transfer curve: what a network that knows the digits 0 to 4 makes of a few images of 5 to 9.

For each number of images a class, and each of some seeds, the same images train new networks from scratch and tune the
pretrained one. Either side takes the recipe that is best on the validation images of 5 to 9 over all seeds. From
scratch may also take the cut network and the head from class means that tuning has, on weights that nothing trained: so
what tuning is ahead by is what was learned from 0 to 4. The test images measure what was taken; they choose nothing.
The page it writes is docs/transfer.md.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.common import RESULTS, ROOT, write
from bench.transfer_page import Setup, best, document, image, page
from zoo.catalog import create_model
from zoo.data.registry import SOURCES, Dataset, Source, load_dataset
from zoo.data.splits import MemorySplit
from zoo.settings import TrainSettings, Transfer
from zoo.storage.atomic_io import write_file
from zoo.training.trainer import train

PER_CLASS = (1, 2, 5, 20)
NET, CUT = "convnet4", "act2"
# Smoothed targets draw the images of a class together, which hides what else tells them apart.
PRETRAINING = TrainSettings(network=NET, data="pretrain", epochs=100, label_smoothing=0.0, max_shift_px=1, device="cpu")
BUDGETS = (20, 60, 120)  # epochs from scratch
TUNE_EPOCHS = 40
PLAIN = TrainSettings(network=NET, data="few", max_shift_px=1, device="cpu")
TUNED = replace(PLAIN, lr=2e-3, weight_decay=0.05, layer_decay=0.75, epochs=TUNE_EPOCHS)  # the command's own rates
SETUP = Setup(NET, CUT, BUDGETS, TUNE_EPOCHS)
FROM_MEANS = Transfer(head="flat", head_init="means", cut_after=CUT)


def main() -> None:
    """Measure, and write docs/transfer.md and .png, and bench/results/transfer.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-class", type=int, nargs="+", default=PER_CLASS, choices=PER_CLASS)
    parser.add_argument("--into", type=Path, default=RESULTS, help="keep the rows of other counts that stand there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = curve(Path(folder), options.per_class, options.seeds)
    rows = merged(rows, options.into / "transfer.json", options.seeds)
    write("transfer", rows, page(rows, options.seeds), options.into)
    if options.into == RESULTS:
        write_file(ROOT / "docs" / "transfer.png", image(rows))
        write_file(ROOT / "docs" / "transfer.md", document(rows, options.seeds, SETUP).encode())


def merged(rows: list[dict[str, Any]], file: Path, seeds: int) -> list[dict[str, Any]]:
    """The rows, and those that the file has of other counts and as many seeds, by the count."""
    earlier = json.loads(file.read_text())["results"] if file.exists() else []
    known = {row["per_class"]: row for row in earlier if len(row["scratch"]["test"]) == seeds}
    return sorted((known | {row["per_class"]: row for row in rows}).values(), key=lambda row: row["per_class"])


def curve(folder: Path, counts: tuple[int, ...], seeds: int) -> list[dict[str, Any]]:
    """For each number of images a class, both sides' accuracies on the test images, in percent, seed by seed."""
    with known(pretrain=digits(range(5))):
        train(PRETRAINING, folder / "pretrained")
    return [reached(folder, count, seeds) for count in counts]


def reached(folder: Path, count: int, seeds: int) -> dict[str, Any]:
    """What either side reaches with `count` images a class, and what each of its recipes measured."""
    sides = {"scratch": from_scratch(folder), "tuned": tuning(folder / "pretrained")}
    found = {
        name: measured(recipe, folder / f"{count}" / name, count, seeds)
        for recipes in sides.values()
        for name, recipe in recipes.items()
    }
    return {"per_class": count, **{side: best(found, names) for side, names in sides.items()}, "recipes": found}


def from_scratch(folder: Path) -> dict[str, TrainSettings]:
    """Each budget for the whole network; and what tunes the cut network, on fresh weights."""
    fresh = replace(FROM_MEANS, pretrained_file=str(folder / "fresh.safetensors"))
    whole = {f"whole, {epochs} epochs": replace(PLAIN, epochs=epochs) for epochs in BUDGETS}
    as_tuned = {name: replace(TUNED, transfer=way) for name, way in ways(fresh).items()}
    return {f"scratch: {name}": recipe for name, recipe in (whole | as_tuned).items()}


def tuning(pretrained: Path) -> dict[str, TrainSettings]:
    """The cut network under a head from means, its head alone or then all of it; and the whole network under a fresh head."""
    cut = {name: replace(TUNED, network=str(pretrained), transfer=way) for name, way in ways(FROM_MEANS).items()}
    whole = replace(TUNED, network=str(pretrained), lr=PLAIN.lr, transfer=Transfer())
    return {f"tuned: {name}": recipe for name, recipe in (cut | {"whole, head then all": whole}).items()}


def ways(transfer: Transfer) -> dict[str, Transfer]:
    """What learns of a cut network."""
    return {
        "cut, from means, head alone": replace(transfer, schedule="probe"),
        "cut, from means, head then all": transfer,
    }


def measured(recipe: TrainSettings, folder: Path, count: int, seeds: int) -> dict[str, list[float]]:
    """Accuracy in percent on validation and test images, for each seed, which also draws the images to train on."""
    found: dict[str, list[float]] = {"val": [], "test": []}
    for seed in range(seeds):
        draw_weights(recipe, seed)
        with known(few=few_of(digits(range(5, 10)), count, seed)):
            result = train(replace(recipe, seed=seed), folder / str(seed))
        found["val"].append(100 * result.best.val_accuracy)
        found["test"].append(100 * result.test_accuracy)
    return found


def draw_weights(recipe: TrainSettings, seed: int) -> None:
    """Write fresh weights of the seed where a recipe tunes those."""
    if recipe.transfer is None or recipe.transfer.pretrained_file is None:
        return
    torch.manual_seed(seed)
    weights = create_model(NET, in_chans=1, img_size=(8, 8)).state_dict()
    write_file(Path(recipe.transfer.pretrained_file), safetensors.torch.save(weights))


def digits(classes: range) -> Dataset:
    """The digits of some classes only."""
    data = load_dataset("digits")

    def only(split: Any) -> MemorySplit:
        chosen = (split.targets >= classes.start) & (split.targets < classes.stop)
        return MemorySplit(split.images[chosen], split.targets[chosen] - classes.start)

    labels = data.labels[classes.start : classes.stop]
    return replace(data, labels=labels, train=only(data.train), val=only(data.val), test=only(data.test))


def few_of(data: Dataset, count: int, seed: int) -> Dataset:
    """The same with `count` training images of each class, drawn by the seed."""
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
        SOURCES[name] = Source(partial(lambda named, *_: named, replace(data, name=name)))
    try:
        yield
    finally:
        for name in datasets:
            del SOURCES[name]


if __name__ == "__main__":
    main()
