"""The cached probe against the head trained through the frozen backbone: the same network, data, epochs and order.

Both are whole runs: what the cached one takes includes the extraction of all features, into an empty store, and what
each writes to disk, in CPU seconds of the process, so that others on the machine count little. No image changes from
epoch to epoch. The backbone is resnet18 with random weights, on digits at 96x96 pixels: how fast either is does not
depend on what the backbone knows. It does depend on how many images there are, since a run begins and ends once.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import safetensors.torch
import torch
from PIL import Image

from bench.common import MEDIANS, RESULTS, machine_line, ratios, shown, summary, table, write
from zoo.catalog import create_model
from zoo.data.registry import load_dataset
from zoo.settings import TrainSettings, Transfer
from zoo.training.trainer import train

BACKBONE, SIDE, EPOCHS = "resnet18", 96, 20
PER_CLASS = {"train": 64, "val": 5, "test": 5}
LEAST_RATIO, MOST_POINTS_APART = 10.0, 0.5


def main() -> None:
    """Measure, and write bench/results/probe.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = prepare(Path(folder))
        rounds = [both(replace(settings, seed=seed), Path(folder) / str(seed)) for seed in range(options.rounds)]
    result = judged(rounds)
    write("probe", result, page(result), options.out)


def prepare(folder: Path) -> TrainSettings:
    """Images and weights in `folder`, and what is asked of them."""
    for split, count in PER_CLASS.items():
        write_images(folder / "digits" / split, split, count)
    torch.manual_seed(0)
    backbone = create_model(BACKBONE)
    file = folder / "backbone.safetensors"
    safetensors.torch.save_file({name: value.contiguous() for name, value in backbone.state_dict().items()}, file)
    return TrainSettings(
        network=BACKBONE,
        data=f"folder:{folder / 'digits'}",
        epochs=EPOCHS,
        lr=2e-3,
        input_size=(3, SIDE, SIDE),
        flip=0.0,
        min_crop=1.0,
        workers=0,
        device="cpu",
        transfer=Transfer(schedule="probe", pretrained_file=str(file)),
    )


def write_images(folder: Path, split: str, count: int) -> None:
    """The first `count` digits of each class of a split, enlarged."""
    digits = load_dataset("digits")
    part = digits.split(split)  # type: ignore[arg-type]
    for target, label in enumerate(digits.labels):
        (folder / label).mkdir(parents=True)
        chosen = (part.targets == target).nonzero().flatten()[:count]
        for index, image in zip(chosen.tolist(), part.images[chosen], strict=True):  # type: ignore[attr-defined]
            file = Image.fromarray(image[:, :, 0].numpy()).resize((SIDE, SIDE)).convert("RGB")
            file.save(folder / label / f"{index:04d}.png")


def both(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """One run each way; which goes first changes from round to round."""
    found: dict[str, Any] = {}
    for way in ("frozen", "cached") if settings.seed % 2 == 0 else ("cached", "frozen"):
        file = settings.transfer and settings.transfer.pretrained_file
        transfer = Transfer(schedule="probe", cached=way == "cached", pretrained_file=file)
        crop = None if way == "cached" else settings.min_crop  # either way the whole image
        asked = replace(settings, transfer=transfer, min_crop=crop)
        started = time.process_time()
        found[f"{way}_test_accuracy"] = train(asked, folder / way / "run").test_accuracy
        found[f"{way}_seconds"] = time.process_time() - started
    return found


def judged(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    frozen, cached = ([each[f"{way}_seconds"] for each in rounds] for way in ("frozen", "cached"))
    apart = [100 * (each["cached_test_accuracy"] - each["frozen_test_accuracy"]) for each in rounds]
    ratio = ratios(frozen, cached)
    return {
        "frozen_s": summary(frozen),
        "cached_s": summary(cached),
        "ratio": ratio,
        "test_accuracy": mean(each["cached_test_accuracy"] for each in rounds),
        "points_apart": max(apart, key=abs),
        "reached": ratio["median"] >= LEAST_RATIO and max(map(abs, apart)) <= MOST_POINTS_APART,
    }


def page(result: dict[str, Any]) -> str:
    """The results for people."""
    said = f"{BACKBONE} at {SIDE}x{SIDE}, {EPOCHS} epochs; {MEDIANS}"
    head = [
        "through the frozen backbone, CPU s",
        "cached, extraction included, CPU s",
        "ratio",
        "accuracy apart, points",
    ]
    row = [shown(result[name], 1) for name in ("frozen_s", "cached_s", "ratio")]
    verdict = "reached" if result["reached"] else "NOT reached"
    asked = f"At least {LEAST_RATIO:g} times faster, accuracy within {MOST_POINTS_APART:g} points: {verdict}.\n"
    return machine_line(said) + table(head, [[*row, f"{result['points_apart']:+.2f}"]]) + "\n" + asked


if __name__ == "__main__":
    main()
