"""The page and the plot of the transfer curve: docs/transfer.md states which side is ahead, and where neither is."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from bench.common import machine_line, table
from zoo.report.plot import Chart, Line


@dataclass(frozen=True)
class Setup:
    """The recipes, as the page describes them.

    Attributes:
        network: Name of the network.
        cut: Last layer of the truncated network.
        scratch_epochs: Epochs of the recipes for the whole network from scratch.
        tune_epochs: Epochs of all other recipes.
    """

    network: str
    cut: str
    scratch_epochs: tuple[int, ...]
    tune_epochs: int


def best(accuracies: dict[str, dict[str, list[float]]], recipes: Iterable[str]) -> dict[str, Any]:
    """Return the recipe with the highest mean validation accuracy, and its test accuracies."""
    name = max(sorted(recipes), key=lambda recipe: mean(accuracies[recipe]["val"]))
    return {"recipe": name, "test": accuracies[name]["test"]}


def page(rows: list[dict[str, Any]], seeds: int) -> str:
    """Return the results as Markdown."""
    head = ["images per class", "whole network from scratch", "from scratch", "tuned", "lead of tuning", "recipes"]
    machine = machine_line(f"{seeds} seeds; mean ± standard deviation, test accuracy in %")
    chosen = table(head, chosen_rows(rows))
    all_recipes = table(["recipe", *(f"{row['per_class']} per class" for row in rows)], recipe_rows(rows))
    return f"{machine}{chosen}\nEvery recipe, mean accuracy on validation / test images in %:\n\n{all_recipes}"


def recipe_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a table row per recipe, with a cell per number of images; chosen recipes are bold."""
    return [[name, *(recipe_cell(row, name) for row in rows)] for name in rows[0]["recipes"]]


def recipe_cell(row: dict[str, Any], name: str) -> str:
    """Return the validation and test accuracy of a recipe, bold if it was chosen."""
    accuracies = row["recipes"][name]
    text = f"{mean(accuracies['val']):.1f} / {mean(accuracies['test']):.1f}"
    return f"**{text}**" if name in (row["scratch"]["recipe"], row["tuned"]["recipe"]) else text


def chosen_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a table row per number of images, with the chosen recipes."""
    cells = []
    for row in rows:
        sides = (whole_network(row), row["scratch"], row["tuned"])
        accuracies = [f"{mean(side['test']):.1f} ± {stdev(side['test']):.1f}" for side in sides]
        recipes = f"{row['scratch']['recipe']}; {row['tuned']['recipe']}"
        cells.append([str(row["per_class"]), *accuracies, f"{lead(row):+.1f}", recipes])
    return cells


def whole_network(row: dict[str, Any]) -> dict[str, Any]:
    """Return the best recipe of the whole network from scratch."""
    return best(row["recipes"], [name for name in row["recipes"] if name.startswith("scratch: whole")])


def hindsight(row: dict[str, Any]) -> str:
    """Return a sentence with the accuracy of either side if the test images chose its recipe."""
    scratch, tuned = (
        max(mean(accuracies["test"]) for name, accuracies in row["recipes"].items() if name.startswith(side))
        for side in ("scratch", "tuned")
    )
    return f"In hindsight, by the test images: {scratch:.1f} % from scratch, {tuned:.1f} % tuned."


def lead(row: dict[str, Any]) -> float:
    """Return the lead of tuning in points."""
    return float(mean(row["tuned"]["test"]) - mean(row["scratch"]["test"]))


def wins(row: dict[str, Any]) -> int:
    """Return the number of seeds in which tuning is strictly better on the same training images."""
    return sum(tuned > scratch for tuned, scratch in zip(row["tuned"]["test"], row["scratch"]["test"], strict=True))


def plot(rows: list[dict[str, Any]]) -> bytes:
    """Return the curves as a PNG, with bars from the worst to the best seed."""
    sides = {
        "whole network from scratch": [whole_network(row) for row in rows],
        "from scratch": [row["scratch"] for row in rows],
        "tuned": [row["tuned"] for row in rows],
    }
    counts = [row["per_class"] for row in rows]
    lines = []
    for name, recipes in sides.items():
        tests: list[list[float]] = [recipe["test"] for recipe in recipes]
        points = [(count, mean(test)) for count, test in zip(counts, tests, strict=True)]
        lines.append(Line(name, points, [(min(test), max(test)) for test in tests]))
    chart = Chart(
        "Digits 5 to 9, after 0 to 4 or from scratch", "training images per class", "test accuracy, %", lines, counts
    )
    buffer = io.BytesIO()
    chart.draw().save(buffer, "PNG")
    return buffer.getvalue()


def document(rows: list[dict[str, Any]], seeds: int, setup: Setup) -> str:
    """Return docs/transfer.md."""
    sentences = "\n".join(f"- {sentence(row, seeds)} {hindsight(row)}" for row in rows)
    network, cut, epochs = setup.network, setup.cut, setup.tune_epochs
    scratch_epochs = " or ".join(map(str, setup.scratch_epochs))
    return f"""# When a pretrained network helps

Written by `python -m bench.transfer`, part of `make bench`. `{network}` learns the digits 0 to 4 and is then tuned on a
few images of 5 to 9; new networks are trained from scratch on the same images for comparison.

{page(rows, seeds)}
![Test accuracy over the training images per class; bars from the worst to the best seed](transfer.png)

{sentences}

"From scratch" is the best of the recipes for the whole network and those for the truncated network on untrained
weights (see below). The recipes are chosen on few validation images, so compare the accuracies in hindsight too: if
they are closer together, part of the lead is luck in the choice of recipe.

## What helps

With one or two images per class, two things help. The network is truncated after `{cut}`, its second convolution with
norm and ReLU: later layers separate 0 to 4 and little else. And the head starts from the mean features of each class,
with the whole feature map flattened into one vector, which preserves the positions of strokes:

    zoonnx tune runs/zero-to-four --data folder:five-to-nine --out runs/five-to-nine \\
        --cut-after {cut} --head flat --head-init means --max-shift 1 --epochs {epochs}

Both help a lot without pretraining too: compare "whole" and "cut, from means" from scratch. Therefore the recipes from
scratch include them, on untrained weights, and the lead of tuning is what was learned from 0 to 4.

## How it was measured

For each number of images, each side uses one recipe: the one with the highest mean accuracy on the validation images of
5 to 9. From scratch the whole network trains for {scratch_epochs} epochs, and the truncated network uses the two
recipes that tune it, with {epochs} epochs like all tuning. All recipes shift images at random by up to a pixel and keep
their best epoch on the validation images. Both sides choose with more labelled images than they train on, which favours
both, and favours the side with more recipes, from scratch, a little more.

The recipes themselves, including the layer to cut after, were found without the test images: on the validation images,
and on the training images of 5 to 9 that a seed does not draw. Other schedules and rates, frozen BatchNorm statistics,
longer and shorter pretraining, cosine heads, and means of the outputs of the last layers were tried with the whole
network, about thirty recipes: with one image per class none of them was ahead of the whole network from scratch.

The seed draws the training images as well as the weights, so at one image per class most of the spread comes from which
image was drawn. The digits are small and alike: how much a pretrained network helps elsewhere depends on how close its
task is to the new one.
"""


def sentence(row: dict[str, Any], seeds: int) -> str:
    """Return a sentence that states which side is ahead, and by how much."""
    count, points = row["per_class"], lead(row)
    images = f"At {count} image{'s' if count > 1 else ''} per class"
    if abs(points) < 0.5:
        return f"{images} neither is ahead ({points:+.1f} points)."
    side = "tuning is ahead" if points > 0 else "tuning is **not** ahead: from scratch is better"
    return f"{images} {side} by {abs(points):.1f} points; tuning is better in {wins(row)} of {seeds} seeds."
