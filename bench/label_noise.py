"""Labels made wrong on purpose, and how many of as many doubts find them: precision at k, over seeds.

A twentieth of the labels of the digits' train and val splits become another class, drawn evenly, and five folds are
trained with the default recipe. k is the number that was made wrong; nothing of that is known to the networks.
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

from bench.common import MEDIANS, machine_line, shown, summary, table, write
from zoo.data.registry import SOURCES, Dataset, Source, load_dataset
from zoo.settings import TrainSettings
from zoo.training.cross_validation import train_folds

FLIPPED_SHARE, FOLDS = 0.05, 5
LEAST_PRECISION = 0.8


def main() -> None:
    """Measure, and write bench/results/label_noise.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(Path(folder) / str(seed), seed) for seed in range(options.seeds)]
    write("label_noise", results, page(results))


def flipped_digits(seed: int) -> tuple[Dataset, set[str]]:
    """Digits with FLIPPED_SHARE of the labels of train and val made wrong, and the names of those images."""
    digits, rng = load_dataset("digits"), np.random.default_rng(seed)
    splits = {"train": digits.train, "val": digits.val}
    names = [f"{name} {index}" for name, split in splits.items() for index in range(len(split))]
    targets = torch.cat([split.targets for split in splits.values()])
    chosen = rng.choice(len(targets), round(FLIPPED_SHARE * len(targets)), replace=False)
    targets[chosen] = (targets[chosen] + torch.from_numpy(rng.integers(1, 10, len(chosen)))) % 10
    train, val = targets.split([len(digits.train), len(digits.val)])
    parts: Any = (digits.train, digits.val)
    changed = {"train": replace(parts[0], targets=train), "val": replace(parts[1], targets=val)}
    return replace(digits, name="flipped", **changed), {names[index] for index in chosen}


def measure(out: Path, seed: int) -> dict[str, Any]:
    """Train the folds into `out`, and look the flipped labels up in its table."""
    data, flipped = flipped_digits(seed)
    SOURCES["flipped"] = Source(lambda *_: data)
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
    """The results for people."""
    names = ["precision_at_k", "precision_of_suspicious", "recall_of_suspicious", "test_accuracy"]
    head = ["labels flipped", *(name.replace("_", " ") for name in names)]
    row = [results[0]["flipped"], *(shown(summary([each[name] for each in results]), 3) for name in names)]
    worst = min(each["precision_at_k"] for each in results)
    verdict = "reached" if worst >= LEAST_PRECISION else "NOT reached"
    said = f"{len(results)} seeds, {FOLDS} folds of convnet4; {MEDIANS}"
    return machine_line(said) + table(head, [row]) + f"\nPrecision at k of at least {LEAST_PRECISION:g}: {verdict}.\n"


if __name__ == "__main__":
    main()
