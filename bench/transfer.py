"""The transfer curve: how a network pretrained on the digits 0 to 4 learns 5 to 9 from a few images.

For each number of images per class and each of several seeds, the same images train new networks from scratch and tune
the pretrained one. Either side uses the recipe that is best on the validation images of 5 to 9 over all seeds. The
recipes from scratch include those of tuning, the truncated network with a head from class means, on untrained weights;
so the lead of tuning is what was learned from 0 to 4. The test images only measure the chosen recipe; they choose
nothing. The resulting page is docs/transfer.md.
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
from bench.transfer_page import Setup, best, document, page, plot
from zoo.catalog import create_model
from zoo.data.dataset import Dataset
from zoo.data.registry import SOURCES, Source, load_dataset
from zoo.data.splits import MemorySplit
from zoo.settings import TrainSettings, Transfer
from zoo.storage.atomic_io import write_file
from zoo.training.trainer import train

PER_CLASS = (1, 2, 5, 20)
NETWORK, CUT = "convnet4", "act2"
# Without label smoothing, which pulls the images of a class together and so hides other differences between them.
PRETRAINING = TrainSettings(
    network=NETWORK, data="pretrain", epochs=100, label_smoothing=0.0, max_shift_px=1, device="cpu"
)
SCRATCH_EPOCHS = (20, 60, 120)
TUNE_EPOCHS = 40
SCRATCH = TrainSettings(network=NETWORK, data="few", max_shift_px=1, device="cpu")
TUNED = replace(
    SCRATCH, lr=2e-3, weight_decay=0.05, layer_decay=0.75, epochs=TUNE_EPOCHS
)  # the defaults of `zoonnx tune`
SETUP = Setup(NETWORK, CUT, SCRATCH_EPOCHS, TUNE_EPOCHS)
FROM_MEANS = Transfer(head="flat", head_init="means", cut_after=CUT)


def main() -> None:
    """Measure, and write docs/transfer.md and .png, and bench/results/transfer.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-class", type=int, nargs="+", default=PER_CLASS, choices=PER_CLASS)
    parser.add_argument(
        "--into", type=Path, default=RESULTS, help="folder of the results; rows of other counts are kept"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_curve(Path(folder), options.per_class, options.seeds)
    rows = merge(rows, options.into / "transfer.json", options.seeds)
    write("transfer", rows, page(rows, options.seeds), options.into)
    if options.into == RESULTS:
        write_file(ROOT / "docs" / "transfer.png", plot(rows))
        write_file(ROOT / "docs" / "transfer.md", document(rows, options.seeds, SETUP).encode())


def merge(rows: list[dict[str, Any]], file: Path, seeds: int) -> list[dict[str, Any]]:
    """Add the rows in `file` that have other counts and as many seeds; return all, ordered by count."""
    earlier = json.loads(file.read_text())["results"] if file.exists() else []
    by_count = {row["per_class"]: row for row in earlier if len(row["scratch"]["test"]) == seeds}
    by_count |= {row["per_class"]: row for row in rows}
    return sorted(by_count.values(), key=lambda row: row["per_class"])


def measure_curve(folder: Path, counts: tuple[int, ...], seeds: int) -> list[dict[str, Any]]:
    """Return a row for each number of images per class: test accuracies of both sides in percent, by seed."""
    with registered(pretrain=digits(range(5))):
        train(PRETRAINING, folder / "pretrained")
    return [measure_count(folder, count, seeds) for count in counts]


def measure_count(folder: Path, count: int, seeds: int) -> dict[str, Any]:
    """Return the accuracies of the best recipe of either side with `count` images per class, and of every recipe."""
    sides = {"scratch": scratch_recipes(folder), "tuned": tuning_recipes(folder / "pretrained")}
    accuracies = {
        name: measure_recipe(recipe, folder / f"{count}" / name, count, seeds)
        for recipes in sides.values()
        for name, recipe in recipes.items()
    }
    chosen = {side: best(accuracies, recipes) for side, recipes in sides.items()}
    return {"per_class": count, **chosen, "recipes": accuracies}


def scratch_recipes(folder: Path) -> dict[str, TrainSettings]:
    """Return the whole network with each number of epochs, and the truncated one on untrained weights."""
    untrained = replace(FROM_MEANS, pretrained_file=str(folder / "fresh.safetensors"))
    untruncated = {f"whole, {epochs} epochs": replace(SCRATCH, epochs=epochs) for epochs in SCRATCH_EPOCHS}
    truncated = {name: replace(TUNED, transfer=transfer) for name, transfer in truncated_recipes(untrained).items()}
    return {f"scratch: {name}": recipe for name, recipe in (untruncated | truncated).items()}


def tuning_recipes(pretrained: Path) -> dict[str, TrainSettings]:
    """Return the recipes of the truncated network with a head from means, and the whole one with a random head."""
    tuned = replace(TUNED, network=str(pretrained))
    truncated = {name: replace(tuned, transfer=transfer) for name, transfer in truncated_recipes(FROM_MEANS).items()}
    untruncated = {"whole, head then all": replace(tuned, lr=SCRATCH.lr, transfer=Transfer())}
    return {f"tuned: {name}": recipe for name, recipe in (truncated | untruncated).items()}


def truncated_recipes(transfer: Transfer) -> dict[str, Transfer]:
    """Return the schedules of the truncated network."""
    return {
        "cut, from means, head alone": replace(transfer, schedule="probe"),
        "cut, from means, head then all": transfer,
    }


def measure_recipe(recipe: TrainSettings, folder: Path, count: int, seeds: int) -> dict[str, list[float]]:
    """Return accuracies in percent on validation and test images by seed; it also draws the training images."""
    accuracies: dict[str, list[float]] = {"val": [], "test": []}
    for seed in range(seeds):
        write_untrained_weights(recipe, seed)
        with registered(few=few_of(digits(range(5, 10)), count, seed)):
            result = train(replace(recipe, seed=seed), folder / str(seed))
        accuracies["val"].append(100 * result.best.val_accuracy)
        accuracies["test"].append(100 * result.test_accuracy)
    return accuracies


def write_untrained_weights(recipe: TrainSettings, seed: int) -> None:
    """Write random weights of the seed if the recipe starts from them."""
    if recipe.transfer is None or recipe.transfer.pretrained_file is None:
        return
    torch.manual_seed(seed)
    weights = create_model(NETWORK, in_chans=1, img_size=(8, 8)).state_dict()
    write_file(Path(recipe.transfer.pretrained_file), safetensors.torch.save(weights))


def digits(classes: range) -> Dataset:
    """Return the digits of some classes only."""
    dataset = load_dataset("digits")

    def select(split: Any) -> MemorySplit:
        chosen = (split.targets >= classes.start) & (split.targets < classes.stop)
        return MemorySplit(split.images[chosen], split.targets[chosen] - classes.start)

    train, val, test = (select(split) for split in (dataset.train, dataset.val, dataset.test))
    return replace(dataset, labels=dataset.labels[classes.start : classes.stop], train=train, val=val, test=test)


def few_of(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Return the dataset with `count` training images of each class, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset.train), generator=generator)
    targets = dataset.train.targets[order]
    chosen = torch.cat([order[targets == label][:count] for label in range(len(dataset.labels))])
    train: Any = dataset.train
    return replace(dataset, train=MemorySplit(train.images[chosen], train.targets[chosen]))


@contextmanager
def registered(**datasets: Dataset) -> Iterator[None]:
    """Register datasets under these names for the block."""
    for name, dataset in datasets.items():
        SOURCES[name] = Source(partial(lambda named, *_: named, replace(dataset, name=name)))
    try:
        yield
    finally:
        for name in datasets:
            del SOURCES[name]


if __name__ == "__main__":
    main()
