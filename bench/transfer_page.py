"""The page and the image of the transfer curve: docs/transfer.md says who is ahead and where nobody is."""

import io
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from bench.common import machine_line, table
from zoo.report.plot import Chart, Line


@dataclass(frozen=True)
class Setup:
    """What the page says of the recipes: the network, its last layer where it is cut, the epochs of either side."""

    network: str
    cut: str
    budgets: tuple[int, ...]
    tune_epochs: int


def best(found: dict[str, dict[str, list[float]]], names: Any) -> dict[str, Any]:
    """The recipe of the highest mean accuracy on validation images, and its accuracies on test images."""
    name = max(sorted(names), key=lambda each: mean(found[each]["val"]))
    return {"recipe": name, "test": found[name]["test"]}


def page(rows: list[dict[str, Any]], seeds: int) -> str:
    """The results for people."""
    head = ["images a class", "whole network from scratch", "from scratch", "tuned", "tuned ahead by", "which"]
    line = machine_line(f"{seeds} seeds; mean ± standard deviation, test accuracy in %")
    every = table(["recipe", *(f"{row['per_class']} a class" for row in rows)], recipe_rows(rows))
    taken = table(head, map_rows(rows))
    return f"{line}{taken}\nEvery recipe, mean accuracy on validation / test images in %:\n\n{every}"


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
    """The best budget of the whole network from scratch."""
    return best(row["recipes"], [name for name in row["recipes"] if name.startswith("scratch: whole")])


def hindsight(row: dict[str, Any]) -> str:
    """What either side has if the test images choose."""
    one, other = (
        max(mean(found["test"]) for name, found in row["recipes"].items() if name.startswith(side))
        for side in ("scratch", "tuned")
    )
    return f"In hindsight, by the test images: {one:.1f} % from scratch, {other:.1f} % tuned."


def ahead(row: dict[str, Any]) -> float:
    return float(mean(row["tuned"]["test"]) - mean(row["scratch"]["test"]))


def wins(row: dict[str, Any]) -> int:
    """In how many seeds tuning is strictly better, on the same training images."""
    return sum(one > other for one, other in zip(row["tuned"]["test"], row["scratch"]["test"], strict=True))


def image(rows: list[dict[str, Any]]) -> bytes:
    """The curves, with the worst and the best seed."""
    sides = {
        "whole network from scratch": [whole(row) for row in rows],
        "from scratch": [row["scratch"] for row in rows],
        "tuned": [row["tuned"] for row in rows],
    }
    counts = [row["per_class"] for row in rows]
    lines = []
    for name, found in sides.items():
        tests: list[list[float]] = [each["test"] for each in found]
        points = [(count, mean(test)) for count, test in zip(counts, tests, strict=True)]
        lines.append(Line(name, points, [(min(test), max(test)) for test in tests]))
    drawn = Chart(
        "Digits 5 to 9, after 0 to 4 or from scratch", "training images a class", "test accuracy, %", lines, counts
    )
    data = io.BytesIO()
    drawn.draw().save(data, "PNG")
    return data.getvalue()


def document(rows: list[dict[str, Any]], seeds: int, setup: Setup) -> str:
    """docs/transfer.md."""
    sentences = "\n".join(f"- {sentence(row, seeds)} {hindsight(row)}" for row in rows)
    network, cut, epochs = setup.network, setup.cut, setup.tune_epochs
    budgets = " or ".join(map(str, setup.budgets))
    return f"""# When a pretrained network helps

Made by `python -m bench.transfer`, part of `make bench`. `{network}` learns the digits 0 to 4; then it is tuned on a few
images of 5 to 9, beside new networks that start from scratch with the same images.

{page(rows, seeds)}
![Test accuracy over the training images a class; the bars reach from the worst seed to the best](transfer.png)

{sentences}

"From scratch" is the best of the whole network's budgets and of the cut network's recipes on untrained weights (see below).
The validation images that choose are few, so the hindsight counts as well: where it shows the two sides closer, the
lead is partly luck in choosing.

## What helps

With an image or two a class, two things do. The network is cut after `{cut}`, its second convolution with norm and ReLU:
what later layers make of an image tells 0 to 4 apart and hardly anything else. And the head begins as the mean of each
class's features, all of the map in one vector, so that it keeps where a stroke is:

    zoonnx tune runs/zero-to-four --data folder:five-to-nine --out runs/five-to-nine \\
        --cut-after {cut} --head flat --head-init means --max-shift 1 --epochs {epochs}

Both help without any pretraining as well, and much: compare "whole" and "cut, from means" from scratch. So scratch may
take them too, on weights that nothing trained. What tuning is ahead by is therefore what was learned from 0 to 4.

## How it was measured

Each side takes one recipe for each number of images: that of the highest mean accuracy on the validation images of
5 to 9. From scratch the whole network has {budgets} epochs, and the cut network has the two recipes that
tune it, of {epochs} epochs as all tuning is. All move images by a pixel at random and keep their best epoch on
the validation images. That both sides choose with more labelled images than they learn from is kind to both, and
kinder to the side of more recipes, which is scratch.

The recipes themselves, the layer to cut after among them, were found without the test images: on the validation
images, and on the training images of 5 to 9 that a seed does not draw. Other schedules and rates, frozen BatchNorm
statistics, longer and shorter pretraining, heads of cosines, and means of what the last layers give were tried with the
whole network, about thirty recipes: with one image a class none of them was ahead of the whole network from scratch.

The seed draws the training images as well as the weights, so most of the spread at one image a class is which
image it was. The digits are small and alike: how much a pretrained network helps elsewhere depends on how near its task
is to the new one.
"""


def sentence(row: dict[str, Any], seeds: int) -> str:
    """Who is ahead, plainly."""
    count, points = row["per_class"], ahead(row)
    images = f"At {count} image{'s' if count > 1 else ''} a class"
    if abs(points) < 0.5:
        return f"{images} neither is ahead ({points:+.1f} points)."
    who = "tuning is ahead" if points > 0 else "tuning is **not** ahead: from scratch is better"
    return f"{images} {who} by {abs(points):.1f} points; tuning is better in {wins(row)} of {seeds} seeds."
