"""Multi-label image folders with a table of labels."""

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
from zoo.data.image_folder import open_folder
from zoo.data.registry import find_data
from zoo.data.splits import MemorySplit
from zoo.errors import DataError
from zoo.evaluation.evaluate import evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import load_network
from zoo.settings import TrainSettings
from zoo.training.trainer import train

PREPROCESSING = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
LABELS = ("", "red", "blue", "blue;red")


def write(root: Path, rows: list[str], header: str = "file,labels") -> Path:
    """Write root/labels.csv, and return `root`."""
    (root / "labels.csv").write_text("\n".join([header, *rows, ""]))
    return root


def draw(file: Path, labels: str, seed: int) -> None:
    """Write a noisy image whose left half is red, and whose right half is blue, if the labels contain that colour."""
    pixels = np.random.default_rng(seed).integers(60, 120, (16, 16, 3)).astype(np.uint8)
    pixels[:, :8, 0] += 120 * ("red" in labels)
    pixels[:, 8:, 2] += 120 * ("blue" in labels)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """A folder of eighty images that are red, blue, both or neither; tests must not change it."""
    root = tmp_path_factory.mktemp("labels") / "halves"
    rows = [(f"some/{index:02d}.png", LABELS[index % 4]) for index in range(80)]
    for index, (name, labels) in enumerate(rows):
        draw(root / name, labels, index)
    return write(root, [f"{name},{labels}" for name, labels in rows])


@pytest.fixture(scope="session")
def settings(labelled) -> TrainSettings:
    """Settings of a run that learns both labels, with mixup."""
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
    """A finished run of `settings`; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "halves"
    train(settings, folder)
    return folder


@pytest.fixture
def few(tmp_path) -> Path:
    """A folder of six images that a test may change."""
    for index in range(6):
        draw(tmp_path / f"{index}.png", "red", index)
    return write(tmp_path, [f"{index}.png,red;blue" for index in range(6)])


class TestTable:
    """Valid and invalid tables."""

    def test_targets_are_the_rows(self, labelled):
        """Targets match the table by file; each image is in one split, and each split has each label."""
        data = find_data(f"folder:{labelled}").for_network(PREPROCESSING)
        assert (data.labels, data.task) == (("blue", "red"), "multi-label")
        splits = [data.train, data.val, data.test]
        assert [len(split) for split in splits] == [64, 8, 8]
        assert all(split.targets.any(0).all() for split in splits)
        actual = {
            file.name: tuple(row)
            for split in splits
            for file, row in zip(split.files, split.targets.tolist(), strict=True)
        }
        expected = {f"{i:02d}.png": ("blue" in LABELS[i % 4], "red" in LABELS[i % 4]) for i in range(80)}
        assert actual == expected

    def test_splits_of_the_table_are_used(self, few):
        """Splits that the table does not have are held out of train."""
        write(few, [f"{i}.png,a;b,{'test' if i < 2 else 'train'}" for i in range(6)], "file,labels,split")
        data = find_data(f"folder:{few}").for_network(PREPROCESSING)
        assert {file.name for file in data.test.files} == {"0.png", "1.png"}
        assert [len(data.train), len(data.val)] == [3, 1]

    def test_bad_files_are_listed_in_one_error(self, few):
        """The error lists missing files, damaged files, and files that are not in the table."""
        (few / "0.png").write_bytes(b"none")
        (few / "1.png").unlink()
        draw(few / "more.png", "red", 9)
        with pytest.raises(DataError, match="3 of 7 images") as caught:
            open_folder(str(few), "fail")
        for reason in (
            "0.png (not an image",
            "1.png (the file does not exist)",
            "more.png (not listed in labels.csv)",
        ):
            assert reason in str(caught.value)
        contents = open_folder(str(few), "skip")
        assert (sum(len(split.files) for split in contents.splits.values()), len(contents.skipped)) == (4, 3)

    @pytest.mark.parametrize(
        ("header", "row", "message"),
        [
            (
                "name,tags",
                "0.png,a",
                r"must start with 'file,labels' or 'file,labels,split'; found \['name'",
            ),
            ("file,labels", "0.png", "row 8: 1 cells, but the header has 2"),
            ("file,labels", "/0.png,a", "row 8: the file '/0.png' must be a relative path inside"),
            ("file,labels", "../0.png,a", "row 8: the file '../0.png' must be a relative path inside"),
            ("file,labels", "0.png,a", "lists 0.png twice"),
            ("file,labels,split", "0.png,a,dev", "row 2: 2 cells, but the header has 3"),
        ],
    )
    def test_an_invalid_table(self, few, header, row, message):
        """The error names the row."""
        write(few, [*(f"{i}.png,red;blue" for i in range(6)), row], header)
        with pytest.raises(DataError, match=message):
            open_folder(str(few), "fail")

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ("", r"has 0 labels \(none\); at least 2 are needed"),
            ("red", r"has 1 labels \(red\); at least 2 are needed"),
        ],
    )
    def test_too_few_labels(self, few, labels, message):
        """A table needs at least two labels."""
        write(few, [f"{i}.png,{labels}" for i in range(6)])
        with pytest.raises(DataError, match=message):
            open_folder(str(few), "fail")

    def test_a_label_without_training_images(self, few):
        """A label without training images is an error."""
        rows = [f"{i}.png,a;b,train" for i in range(4)] + ["4.png,a,val", "5.png,c,test"]
        write(few, rows, "file,labels,split")
        with pytest.raises(DataError, match=r"no training image in .* has the label 'c'"):
            open_folder(str(few), "fail")


class TestRun:
    """Training, evaluation and export of a multi-label network."""

    def test_it_learns_both_labels(self, run):
        """The network learns both labels; the best checkpoint is that of the highest mean average precision."""
        metrics = json.loads((run / "best" / "metrics.json").read_text())
        assert metrics["test_mean_average_precision"] > 0.9
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        best = max(lines, key=lambda line: (line["val_mean_average_precision"], -line["val_loss"]))
        assert (metrics["epoch"], metrics["val_macro_f1"]) == (best["epoch"], best["val_macro_f1"])

    def test_eval_shows_the_right_table(self, run, labelled, command, tmp_path):
        """`eval` reports the multi-label measures as text, as JSON, and per image in predictions.csv."""
        options = ["--data", f"folder:{labelled}", "--workers", 0, "--split", "train"]
        text = command("eval", run, *options, "--save", tmp_path / "out").out
        assert all(name in text for name in ("mean average precision", "macro-F1", "all labels correct"))
        result = json.loads(command("eval", run, *options, "--json").out)
        assert result.keys() >= {"accuracy", "loss", "mean_average_precision", "macro_f1"}
        rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
        assert (len(rows), rows[0]["file"]) == (64, "images/00000.png")
        assert {row["label"] for row in rows} == set(LABELS)
        correct = sum(row["label"] == row["predicted"] for row in rows)
        assert result["accuracy"] == pytest.approx(correct / 64)

    def test_the_task_is_stored_with_the_weights(self, run, painted, command):
        """A multi-label network is not evaluated on single-label data."""
        assert load_network(run).task == "multi-label"
        result = command("eval", run, "--data", f"folder:{painted}")
        assert result.status == 2
        assert (
            "the network is multi-label; folder:colours is single-label: each image has exactly one class" in result.err
        )

    def test_resume_is_bit_identical(self, run, settings, tmp_path, monkeypatch):
        """A multi-label run with mixup that is stopped and resumed has the same weights, bit for bit."""
        from zoo.errors import ZooError

        def stop(event):
            if getattr(event, "epoch", 0) == 3 and hasattr(event, "val_loss"):
                raise ZooError("stopped")

        with pytest.raises(ZooError, match="stopped"):
            train(settings, tmp_path / "run", stop)
        train(settings, tmp_path / "run", resume=True)
        files = [folder / "best" / "model.safetensors" for folder in (run, tmp_path / "run")]
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_the_export_produces_a_probability_for_each_label(self, run, tmp_path):
        """The exported model applies a sigmoid; manifest and config record the task; versions must share one task."""
        import onnxruntime

        loaded = load_network(run)
        exported = export_model(loaded, ExportSettings(to=tmp_path, name="halves"))
        assert exported.manifest.head.activation == "sigmoid"
        assert "zoonnx.task" in (tmp_path / "halves" / "config.pbtxt").read_text()
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
        logits, probabilities = session.run(["logits", "probabilities"], {"image": pixels})
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-5)
        with pytest.raises(RepositoryConflictError):
            export_model(replace(loaded, task="single-label"), ExportSettings(to=tmp_path, name="halves"))


class TestEvaluation:
    """Multi-label measures, compared with values computed by hand."""

    def test_measures(self):
        """Accuracy, mean average precision, macro-F1 and loss of two labels on four images."""
        logits = torch.tensor([[9.0, -9.0], [4.0, 2.0], [-1.0, 5.0], [2.0, -3.0]])
        targets = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 1]])
        evaluation = self.measure(logits, targets)
        assert evaluation.accuracy == 0.5
        # label 0 is present at ranks 1 and 3; label 1 at ranks 1, 2 and 3
        assert evaluation.mean_average_precision == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
        # label 0: tp 2, fp 1; label 1: tp 2, fn 1; then one more fp of label 1
        assert evaluation.macro_f1 == pytest.approx((0.8 + 0.8) / 2)
        with_false_positive = logits.clone()
        with_false_positive[0, 1] = 9.0
        assert self.measure(with_false_positive, targets).macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float())
        assert evaluation.loss == pytest.approx(expected.item())

    def test_an_absent_label_is_ignored(self):
        """A label that no image of the split has does not count in the mean average precision."""
        targets = torch.tensor([[1, 0], [0, 0]])
        assert self.measure(torch.tensor([[1.0, -1.0], [0.0, -2.0]]), targets).mean_average_precision == 1

    @pytest.mark.parametrize(
        ("targets", "message"),
        [(torch.zeros(2, 2), "no image has any label"), (torch.ones(2, 3), "has 2 labels; the targets have 3")],
    )
    def test_invalid_targets(self, targets, message):
        """Targets without any label, or with another number of labels, are refused."""
        with pytest.raises(DataError, match=message):
            self.measure(torch.zeros(2, 2), targets.long())

    def measure(self, logits, targets):
        """Evaluate an identity network, which outputs `logits`."""
        network = torch.nn.Linear(logits.shape[1], logits.shape[1], bias=False)
        network.weight.data.copy_(torch.eye(logits.shape[1]))

        class IdentityPreprocessing:
            input_size = (1,)

            def normalise(self, images, dtype=torch.float32):
                return images

        return evaluate(network, MemorySplit(logits, targets), IdentityPreprocessing())
