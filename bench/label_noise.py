"""How well label errors are found: precision at k on labels that were flipped on purpose, over seeds.

A twentieth of the labels of digits' train and val splits are changed to another class, drawn uniformly, and five folds
are trained with the default recipe. k is the number of flipped labels, which training cannot tell from the others.
"""

import argparse
import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from bench.common import MEDIANS, format_summary, machine_line, summary, table, write
from zoo.data.dataset import Dataset
from zoo.data.registry import SOURCES, Source, load_dataset
from zoo.settings import TrainSettings
from zoo.training.cross_validation import train_folds

FLIPPED_SHARE, FOLDS = 0.05, 5
MIN_PRECISION = 0.8


def main() -> None:
    """Measure, and write bench/results/label_noise.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(Path(folder) / str(seed), seed) for seed in range(options.seeds)]
    write("label_noise", results, page(results))


def flipped_digits(seed: int) -> tuple[Dataset, set[str]]:
    """Return digits with FLIPPED_SHARE of the labels of train and val changed, and the names of those images."""
    digits, rng = load_dataset("digits"), np.random.default_rng(seed)
    splits = {"train": digits.train, "val": digits.val}
    names = [f"{name} {index}" for name, split in splits.items() for index in range(len(split))]
    targets = torch.cat([split.targets for split in splits.values()])
    flipped = rng.choice(len(targets), round(FLIPPED_SHARE * len(targets)), replace=False)
    targets[flipped] = (targets[flipped] + torch.from_numpy(rng.integers(1, 10, len(flipped)))) % 10
    train_targets, val_targets = targets.split([len(digits.train), len(digits.val)])
    train: Any = digits.train
    val: Any = digits.val
    dataset = replace(
        digits, name="flipped", train=replace(train, targets=train_targets), val=replace(val, targets=val_targets)
    )
    return dataset, {names[index] for index in flipped}


def measure(out: Path, seed: int) -> dict[str, Any]:
    """Train the folds into `out`, and compare its label-noise.csv with the flipped labels."""
    dataset, flipped = flipped_digits(seed)
    SOURCES["flipped"] = Source(lambda *_: dataset)
    try:
        result = train_folds(TrainSettings(network="convnet4", data="flipped", seed=seed, device="cpu"), FOLDS, out)
    finally:
        del SOURCES["flipped"]
    rows = list(csv.DictReader((out / "label-noise.csv").read_text().splitlines()))
    suspicious = [row["image"] in flipped for row in rows if row["suspicious"] == "yes"]
    return {
        "flipped": len(flipped),
        "precision_at_k": mean(row["image"] in flipped for row in rows[: len(flipped)]),
        "suspicious": result.suspicious,
        "precision_of_suspicious": mean(suspicious),
        "recall_of_suspicious": sum(suspicious) / len(flipped),
        "test_accuracy": result.summary()["test_accuracy"]["mean"],
    }


def page(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    names = ["precision_at_k", "precision_of_suspicious", "recall_of_suspicious", "test_accuracy"]
    head = ["labels flipped", *(name.replace("_", " ") for name in names)]
    cells = (format_summary(summary([result[name] for result in results]), 3) for name in names)
    worst = min(result["precision_at_k"] for result in results)
    verdict = "reached" if worst >= MIN_PRECISION else "NOT reached"
    conditions = f"{len(results)} seeds, {FOLDS} folds of convnet4; {MEDIANS}"
    return (
        machine_line(conditions)
        + table(head, [[results[0]["flipped"], *cells]])
        + f"\nPrecision at k of at least {MIN_PRECISION:g}: {verdict}.\n"
    )


if __name__ == "__main__":
    main()
