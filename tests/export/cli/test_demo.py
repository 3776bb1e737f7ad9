"""The demo prints its results, or fails with one sentence."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

import export.cli.demo
import zoonnx as dispatcher
from export.cli.demo import MARKER, Comparison, compare, demo, require
from export.errors import DemoError
from tests.conftest import Zoonnx

GOOD = Comparison(
    images=100,
    torch_accuracy=0.98,
    served_accuracy=0.98,
    same_classes=100,
    max_logit_difference=1e-6,
    images_per_s=1.0,
)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the demo's commands in this process, where torch is already imported; only its server is another process."""

    def run(verb: str, *arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            dispatcher.main([verb, *map(str, arguments)])
        assert not ended.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    monkeypatch.setattr(export.cli.demo, "_zoonnx", run)


def assert_results(out: Path, printed: str) -> None:
    assert [path.name for path in (out / "models" / "digits").iterdir() if path.is_dir()] == ["1"]
    accuracies = re.findall(r"^accuracy \((?:PyTorch|served)\) +(\d\d\.\d\d)%$", printed, re.MULTILINE)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1] >= "97.00"
    assert len(json.loads((out / "served.json").read_text())["results"]) == 360
    assert (out / "layers.safetensors").exists()
    assert (out / "layers.png").exists()


@pytest.mark.usefixtures("in_this_process")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo trains, exports, serves, infers and dumps; it replaces the files of an earlier demo."""
    out = tmp_path / "demo"
    (out / "models" / "digits" / "1").mkdir(parents=True)
    (out / MARKER).touch()
    demo(out)
    assert_results(out, capsys.readouterr().out)


@pytest.mark.slow
def test_demo_command(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """`zoonnx demo` runs each command in a separate process."""
    done = zoonnx("demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_results(tmp_path / "demo", done.stdout)


def test_failing_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A command is announced, runs in its own process, and ends the demo if it fails."""
    with pytest.raises(DemoError, match="'zoonnx check' ended with exit status 2; see its error above"):
        export.cli.demo._zoonnx("check", tmp_path / "nothing")
    captured = capfd.readouterr()
    assert f"$ zoonnx check {tmp_path}/nothing" in captured.out.replace("\n", "")
    assert captured.err.startswith("zoonnx check: ")


def test_occupied_folder(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """A folder that the demo did not create is left unchanged."""
    (tmp_path / "thesis.tex").write_text("...")
    done = zoonnx("demo", "--out", tmp_path)
    assert (done.returncode, "was not created by this demo" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch_accuracy": 0.96}, "expected a test accuracy of at least 97%, got 96.0%"),
        ({"same_classes": 99}, "1 of 100 classes differ"),
        ({"max_logit_difference": 1e-3}, "largest logit difference is 0.001"),
        ({"max_logit_difference": float("nan")}, "largest logit difference is nan"),
    ],
)
def test_insufficient_results(change: dict[str, float], message: str) -> None:
    """The demo fails if the accuracy is low or if the server and PyTorch disagree."""
    require(GOOD)
    with pytest.raises(DemoError, match=re.escape(message)):
        require(dataclasses.replace(GOOD, **change))


def test_compare() -> None:
    """Results are matched by file name; accuracies, equal classes and logit differences are computed."""
    predictions = {
        "a.png": {"file": "images/1/a.png", "label": "1", "predicted": "1", "logit_0": "0.5", "logit_1": "2.0"},
        "b.png": {"file": "images/0/b.png", "label": "0", "predicted": "1", "logit_0": "1.0", "logit_1": "1.5"},
    }
    results = [
        {"file": "/x/b.png", "label": "0", "logits": [1.0, 1.25]},
        {"file": "/x/a.png", "label": "1", "logits": [0.5, 2.0]},
    ]
    comparison = compare(predictions, {"results": results, "images_per_s": 7.0})
    assert comparison == Comparison(2, 0.5, 1.0, 1, 0.25, 7.0)
    with pytest.raises(DemoError, match="expected a prediction for each of 2 images, got 1"):
        compare(predictions, {"results": results[:1], "images_per_s": 7.0})
