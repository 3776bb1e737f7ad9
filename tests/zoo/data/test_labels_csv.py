"""Folders with a table of labels."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export import ExportSettings, export_model
from export.errors import RepositoryConflictError
from zoo.data.image_folder import scan
from zoo.data.registry import find_data
from zoo.data.splits import MemorySplit
from zoo.errors import DataError
from zoo.evaluation.evaluate import evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import load_network
from zoo.settings import TrainSettings
from zoo.training.trainer import train

RULE = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
KINDS = ("", "red", "blue", "blue;red")


def write(root: Path, rows: list[str], header: str = "file,labels") -> Path:
    """The table of images that are there."""
    (root / "labels.csv").write_text("\n".join([header, *rows, ""]))
    return root


def draw(file: Path, labels: str, seed: int) -> None:
    """A noisy image: red in its left half, blue in its right half, as the labels say."""
    pixels = np.random.default_rng(seed).integers(60, 120, (16, 16, 3)).astype(np.uint8)
    pixels[:, :8, 0] += 120 * ("red" in labels)
    pixels[:, 8:, 2] += 120 * ("blue" in labels)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """Eighty images that are red, blue, both or neither; to be read only."""
    root = tmp_path_factory.mktemp("labels") / "halves"
    rows = [(f"some/{index:02d}.png", KINDS[index % 4]) for index in range(80)]
    for index, (name, labels) in enumerate(rows):
        draw(root / name, labels, index)
    return write(root, [f"{name},{labels}" for name, labels in rows])


@pytest.fixture(scope="session")
def settings(labelled) -> TrainSettings:
    """A run that learns both halves, with mixed images."""
    return TrainSettings(
        network="resnet8",
        data=f"folder:{labelled}",
        epochs=6,
        batch_size=8,
        lr=5e-3,
        flip=0.0,
        min_crop=1.0,
        mixup=0.2,
        input_size=(3, 16, 16),
        workers=0,
        device="cpu",
    )


@pytest.fixture(scope="session")
def run(settings, tmp_path_factory) -> Path:
    """That run, to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "halves"
    train(settings, folder)
    return folder


@pytest.fixture
def few(tmp_path) -> Path:
    """Six images to spoil."""
    for index in range(6):
        draw(tmp_path / f"{index}.png", "red", index)
    return write(tmp_path, [f"{index}.png,red;blue" for index in range(6)])


class TestTable:
    """What the table says, and what it must not."""

    def test_targets_are_the_rows(self, labelled):
        """By name; every image is in one split, and each split has each label."""
        data = find_data(f"folder:{labelled}").for_net(RULE)
        assert (data.labels, data.task) == (("blue", "red"), "multi-label")
        parts = [data.train, data.val, data.test]
        assert [len(part) for part in parts] == [64, 8, 8]
        assert all(part.targets.any(0).all() for part in parts)
        found = {
            file.name: tuple(row) for part in parts for file, row in zip(part.files, part.targets.tolist(), strict=True)
        }
        expected = {f"{i:02d}.png": ("blue" in KINDS[i % 4], "red" in KINDS[i % 4]) for i in range(80)}
        assert found == expected

    def test_given_splits_are_taken(self, few):
        """What is missing comes off train."""
        write(few, [f"{i}.png,a;b,{'test' if i < 2 else 'train'}" for i in range(6)], "file,labels,split")
        data = find_data(f"folder:{few}").for_net(RULE)
        assert {file.name for file in data.test.files} == {"0.png", "1.png"}
        assert [len(data.train), len(data.val)] == [3, 1]

    def test_bad_files_are_named_in_one_report(self, few):
        """Missing ones, damaged ones, and those that the table forgot."""
        (few / "0.png").write_bytes(b"none")
        (few / "1.png").unlink()
        draw(few / "more.png", "red", 9)
        with pytest.raises(DataError, match="3 of 7 images") as caught:
            scan(few, "fail")
        for words in (
            "0.png (it is no image",
            "1.png (there is no such file)",
            "more.png (labels.csv does not name it)",
        ):
            assert words in str(caught.value)
        found = scan(few, "skip")
        assert (sum(len(part.files) for part in found.splits.values()), len(found.skipped)) == (4, 3)

    @pytest.mark.parametrize(
        ("header", "row", "message"),
        [
            (
                "name,tags",
                "0.png,a",
                r"should begin with the line 'file,labels' or 'file,labels,split'; it has \['name'",
            ),
            ("file,labels", "0.png", "row 8: it has 1 cells, the first row 2"),
            ("file,labels", "/0.png,a", "row 8: the file '/0.png' should be a path within"),
            ("file,labels", "../0.png,a", "row 8: the file '../0.png' should be a path within"),
            ("file,labels", "0.png,a", "names 0.png twice"),
            ("file,labels,split", "0.png,a,dev", "row 2: it has 2 cells, the first row 3"),
        ],
    )
    def test_a_table_that_is_none(self, few, header, row, message):
        """The line is named."""
        write(few, [*(f"{i}.png,red;blue" for i in range(6)), row], header)
        with pytest.raises(DataError, match=message):
            scan(few, "fail")

    @pytest.mark.parametrize(
        ("labels", "message"),
        [("", r"has 0 labels \(none\); it takes two"), ("red", r"has 1 labels \(red\); it takes two")],
    )
    def test_too_few_labels(self, few, labels, message):
        """Nothing to tell apart."""
        write(few, [f"{i}.png,{labels}" for i in range(6)])
        with pytest.raises(DataError, match=message):
            scan(few, "fail")

    def test_a_label_without_training_images(self, few):
        """It could not be learnt."""
        rows = [f"{i}.png,a;b,train" for i in range(4)] + ["4.png,a,val", "5.png,c,test"]
        write(few, rows, "file,labels,split")
        with pytest.raises(DataError, match=r"no training image of .* has the label 'c'"):
            scan(few, "fail")


class TestRun:
    """A network that gives any number of labels."""

    def test_it_learns_both_labels(self, run):
        """And says what it measured; `best` is by mean average precision."""
        metrics = json.loads((run / "best" / "metrics.json").read_text())
        assert metrics["test_mean_average_precision"] > 0.9
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        best = max(lines, key=lambda line: (line["val_mean_average_precision"], -line["val_loss"]))
        assert (metrics["epoch"], metrics["val_macro_f1"]) == (best["epoch"], best["val_macro_f1"])

    def test_eval_shows_the_right_table(self, run, labelled, command, tmp_path):
        """In words, as JSON, and image by image."""
        options = ["--data", f"folder:{labelled}", "--workers", 0, "--split", "train"]
        shown = command("eval", run, *options, "--save", tmp_path / "out").out
        assert all(words in shown for words in ("mean average precision", "macro-F1", "every label right"))
        found = json.loads(command("eval", run, *options, "--json").out)
        assert found.keys() >= {"accuracy", "loss", "mean_average_precision", "macro_f1"}
        rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
        assert (len(rows), rows[0]["file"]) == (64, "images/00000.png")
        assert {row["label"] for row in rows} == set(KINDS)
        right = sum(row["label"] == row["predicted"] for row in rows)
        assert found["accuracy"] == pytest.approx(right / 64)

    def test_the_task_goes_with_the_weights(self, run, painted, command):
        """A network of labels is not measured on classes."""
        assert load_network(run).task == "multi-label"
        said = command("eval", run, "--data", f"folder:{painted}")
        assert said.status == 2
        assert "the network is a multi-label one, folder:colours is single-label: an image has one class" in said.err

    def test_resume_is_bit_identical(self, run, settings, tmp_path, monkeypatch):
        """Losses of labels and mixed images are a function of seed, epoch and batch too."""
        from zoo.errors import ZooError

        def stop(event):
            if getattr(event, "epoch", 0) == 3 and hasattr(event, "val_loss"):
                raise ZooError("stopped")

        with pytest.raises(ZooError, match="stopped"):
            train(settings, tmp_path / "run", stop)
        train(settings, tmp_path / "run", resume=True)
        files = [folder / "best" / "model.safetensors" for folder in (run, tmp_path / "run")]
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_the_export_gives_a_probability_for_each_label(self, run, tmp_path):
        """A sigmoid, checked against PyTorch; the manifest and the config say so, and all versions have one task."""
        import onnxruntime

        loaded = load_network(run)
        exported = export_model(loaded, ExportSettings(to=tmp_path, name="halves"))
        assert exported.manifest.head.activation == "sigmoid"
        assert "zoonnx.task" in (tmp_path / "halves" / "config.pbtxt").read_text()
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
        logits, found = session.run(["logits", "probabilities"], {"image": pixels})
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-5)
        with pytest.raises(RepositoryConflictError):
            export_model(replace(loaded, task="single-label"), ExportSettings(to=tmp_path, name="halves"))


class TestEvaluation:
    """Measured by hand."""

    def test_measures(self):
        """Two labels, four images."""
        logits = torch.tensor([[9.0, -9.0], [4.0, 2.0], [-1.0, 5.0], [2.0, -3.0]])
        targets = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 1]])
        found = self.measure(logits, targets)
        assert found.accuracy == 0.5
        # label 0: right at ranks 1 and 3; label 1: at 1, 2 and 3
        assert found.mean_average_precision == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
        # label 0: tp 2, fp 1; label 1: tp 2, fn 1; then label 1 of another image is seen though it is not there
        assert found.macro_f1 == pytest.approx((0.8 + 0.8) / 2)
        more = logits.clone()
        more[0, 1] = 9.0
        assert self.measure(more, targets).macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float())
        assert found.loss == pytest.approx(expected.item())

    def test_a_label_that_the_split_lacks_is_left_out(self):
        """Its precision would be no number."""
        targets = torch.tensor([[1, 0], [0, 0]])
        assert self.measure(torch.tensor([[1.0, -1.0], [0.0, -2.0]]), targets).mean_average_precision == 1

    @pytest.mark.parametrize(
        ("targets", "message"),
        [(torch.zeros(2, 2), "no image has any label"), (torch.ones(2, 3), "has 2 labels; the targets are of 3")],
    )
    def test_targets_that_do_not_fit(self, targets, message):
        """Both numbers are named."""
        with pytest.raises(DataError, match=message):
            self.measure(torch.zeros(2, 2), targets.long())

    def measure(self, logits, targets):
        """An evaluation of a network that gives these logits."""
        network = torch.nn.Linear(logits.shape[1], logits.shape[1], bias=False)
        network.weight.data.copy_(torch.eye(logits.shape[1]))

        class Rule:
            input_size = (1,)

            def normalise(self, images, dtype=torch.float32):
                return images

        return evaluate(network, MemorySplit(logits, targets), Rule())
