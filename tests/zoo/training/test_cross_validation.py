"""K folds: a run each, their summary, resuming, and the labels that they doubt."""

import csv
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.label_noise import measure
from zoo.data.registry import SOURCES, Dataset, Source, load_dataset
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
    """Few enough to be quick."""
    digits = load_dataset("digits")

    def first(split: MemorySplit, count: int) -> MemorySplit:
        return MemorySplit(split.images[:count], split.targets[:count])

    return replace(digits, name="some", train=first(digits.train, 150), val=first(digits.val, 60))


@pytest.fixture(autouse=True)
def small_data(monkeypatch) -> None:
    """Make the small data known by name."""
    monkeypatch.setitem(SOURCES, "some", Source(lambda *_: some_digits()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished folds, to be read only, and their result."""
    out = tmp_path_factory.mktemp("folds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "some", Source(lambda *_: some_digits()))
        return out, train_folds(SETTINGS, 2, out)


def test_each_fold_is_a_run(trained) -> None:
    """With the images of the other folds, and its own held out."""
    out, result = trained
    config = json.loads((out / "fold-2" / "config.json").read_text())["settings"]
    assert (config["fold"], config["folds"]) == (2, 2)
    assert [each.fold for each in result.results] == [1, 2]
    for each in result.results:
        metrics = json.loads((out / f"fold-{each.fold}" / "best" / "metrics.json").read_text())
        assert (metrics["val_accuracy"], metrics["test_accuracy"]) == (each.val_accuracy, each.test_accuracy)


def test_the_summary_is_that_of_the_folds(trained) -> None:
    """Mean and sample standard deviation, in folds.json too."""
    out, result = trained
    values = [each.val_accuracy for each in result.results]
    found = json.loads((out / "folds.json").read_text())["summary"]["val_accuracy"]
    assert found == pytest.approx({"mean": np.mean(values), "deviation": np.std(values, ddof=1)})


def test_labels_are_ranked_once_each(trained) -> None:
    """Every image of train and val is in the table, and the sheet is an image."""
    out, result = trained
    rows = list(csv.DictReader((out / "label-noise.csv").read_text().splitlines()))
    assert len({row["image"] for row in rows}) == len(rows) == result.labels == 210
    assert (out / "label-noise.png").read_bytes().startswith(b"\x89PNG")


def test_eval_measures_the_fold_that_was_held_out(trained, command) -> None:
    """As the run itself did, and the test split for who asks for that."""
    out, result = trained
    for split, expected in (("val", result.results[0].val_accuracy), ("test", result.results[0].test_accuracy)):
        said = command("eval", out / "fold-1", "--data", "some", "--split", split, "--json")
        assert json.loads(said.out)["accuracy"] == pytest.approx(expected)


def test_a_fold_that_has_ended_is_not_trained_again(trained, tmp_path) -> None:
    """The one that stopped goes on; the result is that of never having stopped."""
    out, result = trained
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "fold-2")
    kept = (again / "fold-1" / "best" / "model.safetensors").stat().st_mtime_ns
    resumed = train_folds(SETTINGS, 2, again, resume=True)
    assert resumed == result
    assert (again / "fold-1" / "best" / "model.safetensors").stat().st_mtime_ns == kept
    assert (again / "folds.json").read_bytes() == (out / "folds.json").read_bytes()
    assert (again / "label-noise.csv").read_bytes() == (out / "label-noise.csv").read_bytes()


def test_a_fold_that_stopped_midway_goes_on(trained, tmp_path) -> None:
    """To the same weights, bit by bit."""
    out, result = trained
    halted = tmp_path / "halted"

    def halt(event) -> None:
        if event.batch == 2:
            raise RuntimeError("halted")

    with pytest.raises(RuntimeError, match="halted"):
        train_folds(replace(SETTINGS, checkpoint_every_steps=1), 2, halted, lambda fold: nullcontext(halt))
    assert train_folds(SETTINGS, 2, halted, resume=True) == result
    weights = [place / "fold-1" / "best" / "model.safetensors" for place in (halted, out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("left", [[], [".config.json.0123abcd.new"]])
def test_a_fold_that_stopped_before_it_began_begins(trained, tmp_path, left) -> None:
    """Its folder was made, and its settings were not yet written, or not whole."""
    out, result = trained
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "fold-2")
    (again / "fold-2").mkdir()
    for name in left:
        (again / "fold-2" / name).write_text("{")
    assert train_folds(SETTINGS, 2, again, resume=True) == result


def test_many_labels_are_told_by_their_precision(tmp_path, command) -> None:
    """The mean average precision of each split stands first, and why there is no report of doubtful labels."""
    for index in range(24):
        image = Image.new("L", (8, 8), 200 if index % 2 else 40)
        image.save(tmp_path / f"{index}.png")
    lines = [f"{index}.png,{'bright;any' if index % 2 else 'any' if index % 3 else ''}" for index in range(24)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels", *lines]) + "\n")
    asked = ["--input-size", "1,8,8", "--epochs", 1, "--device", "cpu", "--workers", 0, "--folds", 2]
    said = command("train", "mlp", "--data", f"folder:{tmp_path}", "--out", tmp_path / "run", *asked)
    assert said.status == 0, said.err
    found = json.loads((tmp_path / "run" / "folds.json").read_text())
    precision = found["summary"]["test_mean_average_precision"]
    assert found["results"][0]["test_mean_average_precision"] is not None
    shown = next(line for line in said.out.splitlines() if line.startswith("test, mean average precision"))
    assert shown.rstrip().endswith(f"{precision['mean']:.2%} ± {precision['deviation']:.2%}")
    assert "no report of suspicious labels" in said.out


@pytest.mark.parametrize(
    ("settings", "folds", "resume", "message"),
    [
        (SETTINGS, 2, False, "already holds a run; nothing was overwritten"),
        (replace(SETTINGS, lr=0.1), 2, True, "fold-1 was begun with other settings: lr was 0.01, now 0.1"),
        (SETTINGS, 3, True, "fold-1 was begun with other settings: folds was 2, now 3"),
        (SETTINGS, 1, True, "folds must be from 2 to 100; got 1"),
    ],
)
def test_refusals(trained, settings, folds, resume, message) -> None:
    """What stands there stays as it is."""
    out, _ = trained
    before = (out / "folds.json").read_bytes()
    with pytest.raises((CheckpointError, SettingsError), match=message):
        train_folds(settings, folds, out, resume=resume)
    assert (out / "folds.json").read_bytes() == before


def test_folds_are_not_resumed_as_one_run(trained) -> None:
    """The error names the option that was left out, and the number."""
    out, _ = trained
    with pytest.raises(SettingsError, match=r"run was begun with --folds 2: go on with it by --folds 2 --resume$"):
        train(SETTINGS, out, resume=True)


def test_one_run_is_not_resumed_as_folds(trained) -> None:
    """The other way round."""
    out, _ = trained
    with pytest.raises(SettingsError, match=r"fold-1 was begun without --folds: go on with it by --resume alone$"):
        train_folds(SETTINGS, 2, out / "fold-1", resume=True)


def test_folds_are_no_net(trained) -> None:
    """Each of them is one, and has a name."""
    out, _ = trained
    with pytest.raises(CheckpointError, match=r"holds a run for each of several folds; name one of them: .*fold-1$"):
        load_network(out)
    assert load_network(out / "fold-1").fold == (1, 2)


def test_there_is_nothing_to_go_on_with(tmp_path) -> None:
    """Resuming needs a fold that began."""
    with pytest.raises(CheckpointError, match="holds no folds to go on with"):
        train_folds(SETTINGS, 2, tmp_path / "new", resume=True)


def test_other_images_are_refused(trained, tmp_path, monkeypatch) -> None:
    """Folds of different data would measure nothing."""
    out, _ = trained
    again = tmp_path / "again"
    shutil.copytree(out, again)
    changed = replace(some_digits(), val=load_dataset("digits").val)
    monkeypatch.setitem(SOURCES, "some", Source(lambda *_: changed))
    with pytest.raises(CheckpointError, match="have changed since it began"):
        train_folds(SETTINGS, 2, again, resume=True)


def test_the_command_says_how_the_folds_did(trained, command, tmp_path) -> None:
    """Each fold, mean and deviation, the suspicious labels; the report's command names no single fold."""
    _, result = trained
    options = ["--epochs", 1, "--device", "cpu", "--folds", 2]
    said = command("train", "convnet4", "--data", "some", "--out", tmp_path / "run", *options)
    assert said.status == 0
    for each in result.results:
        assert f"held out {each.val_accuracy:.2%}" in said.out
    measured = result.summary()["test_accuracy"]
    assert f"{measured['mean']:.2%} ± {measured['deviation']:.2%}" in said.out
    assert f"{result.suspicious} of 210 are suspicious" in said.out
    again = command_of(read_settings(tmp_path / "run" / "fold-1"), "again")
    assert again.endswith("--out again --epochs 1 --device cpu --folds 2")


@pytest.mark.slow
def test_flipped_labels_are_found(tmp_path) -> None:
    """With 5 % of the digits' labels flipped, at least 80 % of as many doubts are right."""
    assert measure(tmp_path / "run", seed=0)["precision_at_k"] >= 0.8
