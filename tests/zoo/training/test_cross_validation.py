"""K-fold cross-validation: runs, summary, resuming, likely label errors."""

import csv
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.label_noise import measure
from zoo.data.dataset import Dataset
from zoo.data.registry import SOURCES, Source, load_dataset
from zoo.data.splits import MemorySplit
from zoo.errors import CheckpointError, SettingsError
from zoo.report.command import command as command_of
from zoo.runs.checkpoint import read_settings
from zoo.runs.load import load_network
from zoo.settings import TrainSettings
from zoo.training.cross_validation import train_folds
from zoo.training.trainer import train

SETTINGS = TrainSettings(network="convnet4", data="some", epochs=1, batch_size=32, device="cpu")


def some_digits() -> Dataset:
    """Return a part of digits, small enough to be quick."""
    digits = load_dataset("digits")

    def first(split: MemorySplit, count: int) -> MemorySplit:
        return MemorySplit(split.images[:count], split.targets[:count])

    return replace(digits, name="some", train=first(digits.train, 150), val=first(digits.val, 60))


@pytest.fixture(autouse=True)
def small_data(monkeypatch) -> None:
    """Register the small dataset by name."""
    monkeypatch.setitem(SOURCES, "some", Source(lambda *_: some_digits()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train two folds; return their folder, which tests must not change, and the result."""
    out = tmp_path_factory.mktemp("folds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "some", Source(lambda *_: some_digits()))
        return out, train_folds(SETTINGS, 2, out)


def test_each_fold_is_a_run(trained) -> None:
    """A fold's settings name it, and its checkpoint has the metrics of the result."""
    out, result = trained
    config = json.loads((out / "fold-2" / "config.json").read_text())["settings"]
    assert (config["fold"], config["folds"]) == (2, 2)
    assert [fold.fold for fold in result.results] == [1, 2]
    for fold in result.results:
        metrics = json.loads((out / f"fold-{fold.fold}" / "best" / "metrics.json").read_text())
        assert (metrics["val_accuracy"], metrics["test_accuracy"]) == (fold.val_accuracy, fold.test_accuracy)


def test_summary_of_the_folds(trained) -> None:
    """folds.json contains mean and sample standard deviation."""
    out, result = trained
    accuracies = [fold.val_accuracy for fold in result.results]
    summary = json.loads((out / "folds.json").read_text())["summary"]["val_accuracy"]
    assert summary == pytest.approx({"mean": np.mean(accuracies), "deviation": np.std(accuracies, ddof=1)})


def test_every_label_is_ranked_once(trained) -> None:
    """Every image of train and val is in the table, and the sheet is a PNG."""
    out, result = trained
    rows = list(csv.DictReader((out / "label-noise.csv").read_text().splitlines()))
    assert len({row["image"] for row in rows}) == len(rows) == result.labels == 210
    assert (out / "label-noise.png").read_bytes().startswith(b"\x89PNG")


def test_eval_uses_the_splits_of_the_fold(trained, command) -> None:
    """eval reproduces the accuracy on the held-out images and on the test split."""
    out, result = trained
    for split, expected in (("val", result.results[0].val_accuracy), ("test", result.results[0].test_accuracy)):
        finished = command("eval", out / "fold-1", "--data", "some", "--split", split, "--json")
        assert json.loads(finished.out)["accuracy"] == pytest.approx(expected)


def test_finished_folds_are_not_trained_again(trained, tmp_path) -> None:
    """Resuming trains the missing fold only; the result is the same as without interruption."""
    out, result = trained
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "fold-2")
    modified = (again / "fold-1" / "best" / "model.safetensors").stat().st_mtime_ns
    resumed = train_folds(SETTINGS, 2, again, resume=True)
    assert resumed == result
    assert (again / "fold-1" / "best" / "model.safetensors").stat().st_mtime_ns == modified
    assert (again / "folds.json").read_bytes() == (out / "folds.json").read_bytes()
    assert (again / "label-noise.csv").read_bytes() == (out / "label-noise.csv").read_bytes()


def test_a_stopped_fold_continues(trained, tmp_path) -> None:
    """A fold stopped in an epoch ends with the same weights, bit for bit."""
    out, result = trained
    stopped = tmp_path / "stopped"

    def stop(event) -> None:
        if event.batch == 2:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        train_folds(replace(SETTINGS, checkpoint_every_steps=1), 2, stopped, lambda fold: nullcontext(stop))
    assert train_folds(SETTINGS, 2, stopped, resume=True) == result
    weights = [folder / "fold-1" / "best" / "model.safetensors" for folder in (stopped, out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("leftovers", [[], [".config.json.0123abcd.new"]])
def test_a_fold_without_settings_starts(trained, tmp_path, leftovers) -> None:
    """The folder of a fold exists, but its settings are missing or incomplete."""
    out, result = trained
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "fold-2")
    (again / "fold-2").mkdir()
    for name in leftovers:
        (again / "fold-2" / name).write_text("{")
    assert train_folds(SETTINGS, 2, again, resume=True) == result


def test_multi_label_summary(tmp_path, command) -> None:
    """The mean average precision is shown, and why there is no report of suspicious labels."""
    for index in range(24):
        image = Image.new("L", (8, 8), 200 if index % 2 else 40)
        image.save(tmp_path / f"{index}.png")
    lines = [f"{index}.png,{'bright;any' if index % 2 else 'any' if index % 3 else ''}" for index in range(24)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels", *lines]) + "\n")
    options = ["--input-size", "1,8,8", "--epochs", 1, "--device", "cpu", "--workers", 0, "--folds", 2]
    finished = command("train", "mlp", "--data", f"folder:{tmp_path}", "--out", tmp_path / "run", *options)
    assert finished.status == 0, finished.err
    folds = json.loads((tmp_path / "run" / "folds.json").read_text())
    precision = folds["summary"]["test_mean_average_precision"]
    assert folds["results"][0]["test_mean_average_precision"] is not None
    row = next(line for line in finished.out.splitlines() if line.startswith("test, mean average precision"))
    assert row.rstrip().endswith(f"{precision['mean']:.2%} ± {precision['deviation']:.2%}")
    assert "no report of suspicious labels" in finished.out


@pytest.mark.parametrize(
    ("settings", "folds", "resume", "message"),
    [
        (SETTINGS, 2, False, "already holds a run; nothing was overwritten"),
        (replace(SETTINGS, lr=0.1), 2, True, "fold-1 was started with other settings: lr was 0.01, now 0.1"),
        (SETTINGS, 3, True, "fold-1 was started with other settings: folds was 2, now 3"),
        (SETTINGS, 1, True, "folds must be from 2 to 100; got 1"),
    ],
)
def test_invalid_requests_change_nothing(trained, settings, folds, resume, message) -> None:
    """The existing folder stays as it is."""
    out, _ = trained
    before = (out / "folds.json").read_bytes()
    with pytest.raises((CheckpointError, SettingsError), match=message):
        train_folds(settings, folds, out, resume=resume)
    assert (out / "folds.json").read_bytes() == before


def test_folds_are_not_resumed_as_one_run(trained) -> None:
    """The error names the missing option and its value."""
    out, _ = trained
    with pytest.raises(SettingsError, match=r"run was started with --folds 2; continue it with --folds 2 --resume$"):
        train(SETTINGS, out, resume=True)


def test_one_run_is_not_resumed_as_folds(trained) -> None:
    """The error recommends to resume without --folds."""
    out, _ = trained
    with pytest.raises(SettingsError, match=r"fold-1 was started without --folds; continue it with --resume alone$"):
        train_folds(SETTINGS, 2, out / "fold-1", resume=True)


def test_a_cross_validation_is_not_a_network(trained) -> None:
    """The error names a fold, which can be loaded."""
    out, _ = trained
    with pytest.raises(
        CheckpointError, match=r"is a cross-validation with a run per fold; name one of them: .*fold-1$"
    ):
        load_network(out)
    assert load_network(out / "fold-1").fold == (1, 2)


def test_nothing_to_resume(tmp_path) -> None:
    """Resuming needs at least one fold."""
    with pytest.raises(CheckpointError, match="has no folds to resume"):
        train_folds(SETTINGS, 2, tmp_path / "new", resume=True)


def test_other_images_are_refused(trained, tmp_path, monkeypatch) -> None:
    """All folds must have the same images."""
    out, _ = trained
    again = tmp_path / "again"
    shutil.copytree(out, again)
    changed = replace(some_digits(), val=load_dataset("digits").val)
    monkeypatch.setitem(SOURCES, "some", Source(lambda *_: changed))
    with pytest.raises(CheckpointError, match="have changed since it started"):
        train_folds(SETTINGS, 2, again, resume=True)


def test_the_command_shows_the_summary(trained, command, tmp_path) -> None:
    """The output has each fold, mean and deviation, and suspicious labels; the report's command is for all folds."""
    _, result = trained
    options = ["--epochs", 1, "--device", "cpu", "--folds", 2]
    finished = command("train", "convnet4", "--data", "some", "--out", tmp_path / "run", *options)
    assert finished.status == 0
    for fold in result.results:
        assert f"held out {fold.val_accuracy:.2%}" in finished.out
    summary = result.summary()["test_accuracy"]
    assert f"{summary['mean']:.2%} ± {summary['deviation']:.2%}" in finished.out
    assert f"{result.suspicious} of 210 are suspicious" in finished.out
    repeated = command_of(read_settings(tmp_path / "run" / "fold-1"), "again")
    assert repeated.endswith("--out again --epochs 1 --device cpu --folds 2")


@pytest.mark.slow
def test_flipped_labels_are_found(tmp_path) -> None:
    """Of the most suspicious labels, as many as were flipped (5 %), at least 80 % were flipped."""
    assert measure(tmp_path / "run", seed=0)["precision_at_k"] >= 0.8
