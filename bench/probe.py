"""Compare a probe on cached features with a head trained through the frozen backbone: same network, data and epochs.

Both are measured as complete runs in CPU seconds of the process, so that other load on the machine counts little: the
cached run includes extracting all features into an empty cache, and both include what they write to disk. Images are
not augmented. The backbone is resnet18 with random weights, on digits enlarged to 96x96 pixels: its speed does not
depend on its weights. The ratio does depend on the number of images, since each run starts and ends once.
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

from bench.common import MEDIANS, RESULTS, format_summary, machine_line, ratios, summary, table, write
from zoo.catalog import create_model
from zoo.data.registry import load_dataset
from zoo.settings import TrainSettings, Transfer
from zoo.training.trainer import train

BACKBONE, SIDE, EPOCHS = "resnet18", 96, 20
PER_CLASS = {"train": 64, "val": 5, "test": 5}
MIN_RATIO, MAX_DIFFERENCE_POINTS = 10.0, 0.5


def main() -> None:
    """Measure, and write bench/results/probe.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = write_inputs(Path(folder))
        rounds = [run_both(replace(settings, seed=seed), Path(folder) / str(seed)) for seed in range(options.rounds)]
    result = summarise(rounds)
    write("probe", result, page(result), options.out)


def write_inputs(folder: Path) -> TrainSettings:
    """Write images and backbone weights into `folder`; return settings that use them."""
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
    """Write the first `count` digits of each class of a split, enlarged."""
    digits = load_dataset("digits")
    images = digits.split(split)  # type: ignore[arg-type]
    for target, label in enumerate(digits.labels):
        (folder / label).mkdir(parents=True)
        chosen = (images.targets == target).nonzero().flatten()[:count]
        for index, image in zip(chosen.tolist(), images.images[chosen], strict=True):  # type: ignore[attr-defined]
            file = Image.fromarray(image[:, :, 0].numpy()).resize((SIDE, SIDE)).convert("RGB")
            file.save(folder / label / f"{index:04d}.png")


def run_both(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Train once frozen and once cached, alternating in order; return test accuracies and CPU seconds."""
    measured: dict[str, Any] = {}
    for method in ("frozen", "cached") if settings.seed % 2 == 0 else ("cached", "frozen"):
        file = settings.transfer and settings.transfer.pretrained_file
        transfer = Transfer(schedule="probe", cached=method == "cached", pretrained_file=file)
        min_crop = None if method == "cached" else settings.min_crop  # both use the whole image
        method_settings = replace(settings, transfer=transfer, min_crop=min_crop)
        started = time.process_time()
        measured[f"{method}_test_accuracy"] = train(method_settings, folder / method / "run").test_accuracy
        measured[f"{method}_seconds"] = time.process_time() - started
    return measured


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median times, their ratio, accuracies, and whether the targets are reached."""
    frozen, cached = ([measured[f"{method}_seconds"] for measured in rounds] for method in ("frozen", "cached"))
    differences = [100 * (measured["cached_test_accuracy"] - measured["frozen_test_accuracy"]) for measured in rounds]
    ratio = ratios(frozen, cached)
    return {
        "frozen_s": summary(frozen),
        "cached_s": summary(cached),
        "ratio": ratio,
        "test_accuracy": mean(measured["cached_test_accuracy"] for measured in rounds),
        "points_apart": max(differences, key=abs),
        "reached": ratio["median"] >= MIN_RATIO and max(map(abs, differences)) <= MAX_DIFFERENCE_POINTS,
    }


def page(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    conditions = f"{BACKBONE} at {SIDE}x{SIDE}, {EPOCHS} epochs; {MEDIANS}"
    head = [
        "through the frozen backbone, CPU s",
        "cached, extraction included, CPU s",
        "ratio",
        "difference in accuracy, points",
    ]
    row = [format_summary(result[name], 1) for name in ("frozen_s", "cached_s", "ratio")]
    verdict = "reached" if result["reached"] else "NOT reached"
    target = f"At least {MIN_RATIO:g} times faster, accuracy within {MAX_DIFFERENCE_POINTS:g} points: {verdict}.\n"
    return machine_line(conditions) + table(head, [[*row, f"{result['points_apart']:+.2f}"]]) + "\n" + target


if __name__ == "__main__":
    main()
