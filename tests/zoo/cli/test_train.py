"""The verbs `train` and `eval` on the command line."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.runs.load import load_network
from zoo.settings import TrainSettings


@pytest.fixture(scope="session")
def command_run(zoonnx, tmp_path_factory):
    """Train by the command; return the run and the finished process."""
    run = tmp_path_factory.mktemp("command") / "run"
    options = ["--data", "digits", "--out", run, "--epochs", 2, "--batch-size", 64, "--max-shift", 1, "--device", "cpu"]
    finished = zoonnx("train", "convnet4", *options, OMP_NUM_THREADS="1")
    return run, finished


def test_train_ends_with_a_summary(command_run):
    """stdout has the accuracies and the path of the weights; stderr has the progress and no warning."""
    run, finished = command_run
    assert finished.returncode == 0
    assert "test accuracy" in finished.stdout
    assert str(run / "best" / "model.safetensors") in finished.stdout
    assert "epoch 2/2" in finished.stderr
    assert "Warning" not in finished.stderr


def test_the_command_gives_the_same_weights_as_the_function(command_run, short_run):
    """Another process with the same settings and threads gives the same weights bit for bit."""
    run, _ = command_run
    assert (run / "best" / "model.safetensors").read_bytes() == (short_run / "best" / "model.safetensors").read_bytes()


def test_every_option_reaches_the_settings(command, tmp_path):
    """The run's config.json has the values of the command line."""
    options = {
        "--epochs": 1,
        "--batch-size": 100,
        "--optimizer": "sgd",
        "--lr": 0.5,
        "--weight-decay": 0.25,
        "--label-smoothing": 0.2,
        "--drop-rate": 0.3,
        "--max-shift": 2,
        "--flip": 0.25,
        "--min-crop": 0.75,
        "--ema-decay": 0.9,
        "--rand-augment": 3,
        "--mixup": 0.2,
        "--cutmix": 0.4,
        "--bad-images": "skip",
        "--workers": 1,
        "--checkpoint-every-steps": 7,
        "--accumulate-steps": 2,
        "--patience": 3,
        "--layer-decay": 0.9,
        "--clip-grad-norm": 1.5,
        "--mixed-precision": "bf16",
        "--imbalance": "sampler",
        "--seed": 9,
        "--device": "cpu",
    }
    arguments = [argument for option in options.items() for argument in option]
    command("train", "convnet4", "--data", "digits", "--out", tmp_path / "run", *arguments)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    renamed = {"max_shift": "max_shift_px"}
    names = {option: option.removeprefix("--").replace("-", "_") for option in options}
    changed = {renamed.get(name, name): options[option] for option, name in names.items()}
    expected = TrainSettings(network="convnet4", data="digits").to_json() | changed
    assert settings == expected


def test_eval_reproduces_the_test_accuracy(command, short_run):
    """eval --json on the test split gives the accuracy that train recorded."""
    finished = command("eval", short_run, "--data", "digits", "--json")
    result, metrics = json.loads(finished.out), load_network(short_run).weights.metrics
    assert (result["split"], result["images"], result["accuracy"]) == ("test", 360, metrics["test_accuracy"])
    assert finished.err == ""


def test_eval_saves_images_and_logits(command, short_run, tmp_path):
    """The output has the score; the network gives the saved logits for the saved images."""
    finished = command("eval", short_run / "last", "--data", "digits", "--split", "val", "--save", tmp_path / "saved")
    assert "digits, val split" in finished.out
    assert "of 137 images wrong" in finished.out
    rows = list(csv.DictReader((tmp_path / "saved" / "predictions.csv").read_text().splitlines()))
    loaded = load_network(short_run / "last")
    pixels = np.stack([np.asarray(Image.open(tmp_path / "saved" / row["file"])) for row in rows])  # (137, 8, 8)
    logits = loaded.network(loaded.preprocessing.normalise(torch.from_numpy(pixels).unsqueeze(1)))
    saved = np.array([[row[f"logit_{label}"] for label in loaded.labels] for row in rows]).astype(np.float32)
    assert len(rows) == 137
    np.testing.assert_allclose(saved, logits.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convnet5", "--data", "digits"], "unknown network 'convnet5'; did you mean 'convnet4'"),
        (["convnet4", "--data", "digits", "--lr", "0"], "lr must be greater than 0; got 0.0"),
        (
            ["convnet4", "--data", "digits", "--max-shift", "8"],
            "max_shift_px 8 can shift an image of 8x8 pixels out of view",
        ),
    ],
)
def test_a_mistake_is_one_sentence(command, tmp_path, arguments, message):
    """The exit status is 2, with one sentence on stderr, no traceback and no folder."""
    finished = command("train", *arguments, "--out", tmp_path / "run")
    assert finished.status == 2
    assert finished.err.startswith(f"zoonnx train: {message}")
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "convnet4", "--data", "digits", "--out", "{taken}"], "already exists and is not empty"),
        (["train", "convnet4", "--data", "folder:", "--out", "{new}"], "'folder:' names no folder"),
        (["train", "convnet4", "--data", "folder:nowhere", "--out", "{new}"], "there is no folder nowhere"),
        (
            ["train", "convnet4", "--data", "folder:{taken}/other.txt", "--out", "{new}"],
            "other.txt is a file; expected a folder with one sub-folder of images per class",
        ),
        (["train", "convnet4", "--data", "digits", "--out", "{new}", "--epochs", "0"], "epochs must be 1 or more"),
        (
            ["tune", "resnet18", "--data", "digits", "--out", "{new}", "--pretrained-file", "no.safetensors"],
            "the weights file no.safetensors does not exist",
        ),
    ],
)
def test_simple_mistakes_do_not_wait_for_torch(tmp_path, arguments, message):
    """Mistakes in paths and names are reported before any slow import."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "other.txt").write_text("")
    formatted = [argument.format(taken=tmp_path / "taken", new=tmp_path / "new") for argument in arguments]
    code = "import sys; sys.modules['torch'] = None; import zoonnx; zoonnx.main(sys.argv[1:])"
    finished = subprocess.run([sys.executable, "-c", code, *formatted], capture_output=True, text=True, check=False)
    assert (finished.returncode, message in finished.stderr) == (2, True), finished.stderr


def test_help_does_not_wait_for_torch():
    """The command line can be imported without torch; the trainer cannot."""
    code = "import sys; sys.modules['torch'] = None; import {}"
    finished = [
        subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=False)
        for module in ("zoo.cli.inspect", "zoo.cli.evaluate", "zoo.training.trainer")
    ]
    assert [process.returncode for process in finished] == [0, 0, 1]
    assert "import of torch halted" in finished[-1].stderr
