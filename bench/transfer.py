"""The transfer curve: what a net that knows the digits 0 to 4 makes of a few pictures of 5 to 9.

For each number of pictures a class, and each of some seeds, the same pictures train new nets from scratch and tune the
pretrained one. Either side takes the recipe that is best on the validation pictures of 5 to 9 over all seeds. From
scratch may also take the cut net and the head from class means that tuning has, on weights that nothing trained: so
what tuning is ahead by is what was learned from 0 to 4. The test pictures measure what was taken; they choose nothing.
The page it writes is docs/transfer.md.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import safetensors.torch
import torch

from bench.common import RESULTS, ROOT, machine_line, table, write
from zoo.catalog import create_model
from zoo.chart import Chart, Line
from zoo.data import DATASETS, Dataset, load_dataset
from zoo.files import write_file
from zoo.settings import TrainSettings, Transfer
from zoo.splits import MemorySplit
from zoo.train import train

PER_CLASS = (1, 2, 5, 20)
NET, CUT = "convnet4", "act2"
# Smoothed targets draw the pictures of a class together, which hides what else tells them apart.
PRETRAINING = TrainSettings(net=NET, data="pretrain", epochs=100, label_smoothing=0.0, max_shift_px=1, device="cpu")
BUDGETS = (20, 60, 120)  # epochs from scratch
TUNE_EPOCHS = 40
PLAIN = TrainSettings(net=NET, data="few", max_shift_px=1, device="cpu")
TUNED = replace(PLAIN, lr=2e-3, weight_decay=0.05, layer_decay=0.75, epochs=TUNE_EPOCHS)  # the command's own rates
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
        write_file(ROOT / "docs" / "transfer.png", picture(rows))
        write_file(ROOT / "docs" / "transfer.md", document(rows, options.seeds).encode())


def merged(rows: list[dict[str, Any]], file: Path, seeds: int) -> list[dict[str, Any]]:
    """The rows, and those that the file has of other counts and as many seeds, by the count."""
    earlier = json.loads(file.read_text())["results"] if file.exists() else []
    known = {row["per_class"]: row for row in earlier if len(row["scratch"]["test"]) == seeds}
    return sorted((known | {row["per_class"]: row for row in rows}).values(), key=lambda row: row["per_class"])


def curve(folder: Path, counts: tuple[int, ...], seeds: int) -> list[dict[str, Any]]:
    """For each number of pictures a class, both sides' accuracies on the test pictures, in percent, seed by seed."""
    with known(pretrain=digits(range(5))):
        train(PRETRAINING, folder / "pretrained")
    return [reached(folder, count, seeds) for count in counts]


def reached(folder: Path, count: int, seeds: int) -> dict[str, Any]:
    """What either side reaches with `count` pictures a class, and what each of its recipes measured."""
    sides = {"scratch": from_scratch(folder), "tuned": tuning(folder / "pretrained")}
    found = {
        name: measured(recipe, folder / f"{count}" / name, count, seeds)
        for recipes in sides.values()
        for name, recipe in recipes.items()
    }
    return {"per_class": count, **{side: best(found, names) for side, names in sides.items()}, "recipes": found}


def from_scratch(folder: Path) -> dict[str, TrainSettings]:
    """Each budget for the whole net; and what tunes the cut net, on fresh weights."""
    fresh = replace(FROM_MEANS, pretrained_file=str(folder / "fresh.safetensors"))
    whole = {f"whole, {epochs} epochs": replace(PLAIN, epochs=epochs) for epochs in BUDGETS}
    as_tuned = {name: replace(TUNED, transfer=way) for name, way in ways(fresh).items()}
    return {f"scratch: {name}": recipe for name, recipe in (whole | as_tuned).items()}


def tuning(pretrained: Path) -> dict[str, TrainSettings]:
    """The cut net under a head from means, its head alone or then all of it; and the whole net under a fresh head."""
    cut = {name: replace(TUNED, net=str(pretrained), transfer=way) for name, way in ways(FROM_MEANS).items()}
    whole = replace(TUNED, net=str(pretrained), lr=PLAIN.lr, transfer=Transfer())
    return {f"tuned: {name}": recipe for name, recipe in (cut | {"whole, head then all": whole}).items()}


def ways(transfer: Transfer) -> dict[str, Transfer]:
    """What learns of a cut net."""
    return {
        "cut, from means, head alone": replace(transfer, schedule="probe"),
        "cut, from means, head then all": transfer,
    }


def measured(recipe: TrainSettings, folder: Path, count: int, seeds: int) -> dict[str, list[float]]:
    """Accuracy in percent on validation and test pictures, for each seed, which also draws the pictures to train on."""
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
    head = ["pictures a class", "whole net from scratch", "from scratch", "tuned", "tuned ahead by", "which"]
    line = machine_line(f"{seeds} seeds; mean ± standard deviation, test accuracy in %")
    every = table(["recipe", *(f"{row['per_class']} a class" for row in rows)], recipe_rows(rows))
    taken = table(head, map_rows(rows))
    return f"{line}{taken}\nEvery recipe, mean accuracy on validation / test pictures in %:\n\n{every}"


def recipe_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """For each recipe, what it measured by the count; in bold what was taken."""
    return [[name, *(recipe_cell(row, name) for row in rows)] for name in rows[0]["recipes"]]


def recipe_cell(row: dict[str, Any], name: str) -> str:
    found = row["recipes"][name]
    shown = f"{mean(found['val']):.1f} / {mean(found['test']):.1f}"
    return f"**{shown}**" if name in (row["scratch"]["recipe"], row["tuned"]["recipe"]) else shown


def map_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    cells = []
    for row in rows:
        sides = (whole(row), row["scratch"], row["tuned"])
        shown = [f"{mean(side['test']):.1f} ± {stdev(side['test']):.1f}" for side in sides]
        chosen = f"{row['scratch']['recipe']}; {row['tuned']['recipe']}"
        cells.append([str(row["per_class"]), *shown, f"{ahead(row):+.1f}", chosen])
    return cells


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """The best budget of the whole net from scratch."""
    return best(row["recipes"], [name for name in row["recipes"] if name.startswith("scratch: whole")])


def hindsight(row: dict[str, Any]) -> str:
    """What either side has if the test pictures choose."""
    one, other = (
        max(mean(found["test"]) for name, found in row["recipes"].items() if name.startswith(side))
        for side in ("scratch", "tuned")
    )
    return f"In hindsight, by the test pictures: {one:.1f} % from scratch, {other:.1f} % tuned."


def ahead(row: dict[str, Any]) -> float:
    return mean(row["tuned"]["test"]) - mean(row["scratch"]["test"])


def wins(row: dict[str, Any]) -> int:
    """In how many seeds tuning is strictly better, on the same training pictures."""
    return sum(one > other for one, other in zip(row["tuned"]["test"], row["scratch"]["test"], strict=True))


def picture(rows: list[dict[str, Any]]) -> bytes:
    lines = []
    sides = {
        "whole net from scratch": whole,
        "from scratch": lambda row: row["scratch"],
        "tuned": lambda row: row["tuned"],
    }
    for name, side in sides.items():
        found = [(row["per_class"], side(row)["test"]) for row in rows]
        points = [(count, mean(test)) for count, test in found]
        lines.append(Line(name, points, [(min(test), max(test)) for _, test in found]))
    drawn = Chart(
        "Digits 5 to 9, after 0 to 4 or from scratch", "training pictures a class", "test accuracy, %", lines, PER_CLASS
    )
    data = io.BytesIO()
    drawn.draw().save(data, "PNG")
    return data.getvalue()


def document(rows: list[dict[str, Any]], seeds: int) -> str:
    """docs/transfer.md."""
    sentences = "\n".join(f"- {sentence(row, seeds)} {hindsight(row)}" for row in rows)
    return f"""# When a pretrained net helps

Made by `python -m bench.transfer`, part of `make bench`. `{NET}` learns the digits 0 to 4; then it is tuned on a few
pictures of 5 to 9, beside new nets that start from scratch with the same pictures.

{page(rows, seeds)}
![Test accuracy over the training pictures a class; the bars reach from the worst seed to the best](transfer.png)

{sentences}

"From scratch" is the best of the whole net's budgets and of the cut net's recipes on untrained weights (see below).
The validation pictures that choose are few, so the hindsight counts as well: where it shows the two sides closer, the
lead is partly luck in choosing.

## What helps

With a picture or two a class, two things do. The net is cut after `{CUT}`, its second convolution with norm and ReLU:
what later layers make of a picture tells 0 to 4 apart and hardly anything else. And the head begins as the mean of each
class's features, all of the map in one vector, so that it keeps where a stroke is:

    zoonnx tune runs/zero-to-four --data folder:five-to-nine --out runs/five-to-nine \\
        --cut-after {CUT} --head flat --head-init means --max-shift 1 --epochs {TUNE_EPOCHS}

Both help without any pretraining as well, and much: compare "whole" and "cut, from means" from scratch. So scratch may
take them too, on weights that nothing trained. What tuning is ahead by is therefore what was learned from 0 to 4.

## How it was measured

Each side takes one recipe for each number of pictures: that of the highest mean accuracy on the validation pictures of
5 to 9. From scratch the whole net has {" or ".join(map(str, BUDGETS))} epochs, and the cut net has the two recipes that
tune it, of {TUNE_EPOCHS} epochs as all tuning is. All move pictures by a pixel at random and keep their best epoch on the
validation pictures. That both sides choose with more labelled pictures than they learn from is kind to both, and kinder
to the side of more recipes, which is scratch.

The recipes themselves, the layer to cut after among them, were found without the test pictures: on the validation
pictures, and on the training pictures of 5 to 9 that a seed does not draw. Other schedules and rates, frozen BatchNorm
statistics, longer and shorter pretraining, heads of cosines, and means of what the last layers give were tried with the
whole net, about thirty recipes: with one picture a class none of them was ahead of the whole net from scratch.

The seed draws the training pictures as well as the weights, so most of the spread at one picture a class is which
picture it was. The digits are small and alike: how much a pretrained net helps elsewhere depends on how near its task
is to the new one.
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
