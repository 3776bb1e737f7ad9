"""The demo shows what it promises, or fails in one sentence."""

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
    """The demo's verbs run here, where torch is imported already; only its server is a process of its own."""

    def run(verb: str, *arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            dispatcher.main([verb, *map(str, arguments)])
        assert not ended.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    monkeypatch.setattr(export.cli.demo, "_zoonnx", run)


def expect_what_it_makes(out: Path, said: str) -> None:
    assert [path.name for path in (out / "models" / "digits").iterdir() if path.is_dir()] == ["1"]
    shown = re.findall(r"accuracy (?:in PyTorch|as served) +│ (\d\d\.\d\d)%", said)
    assert len(shown) == 2
    assert shown[0] == shown[1] >= "97.00"
    assert len(json.loads((out / "served.json").read_text())["results"]) == 360
    assert (out / "layers.safetensors").exists()
    assert (out / "layers.png").exists()


@pytest.mark.usefixtures("in_this_process")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, export, serve, ask and dump; what an earlier demo left is made anew."""
    out = tmp_path / "demo"
    (out / "models" / "digits" / "1").mkdir(parents=True)
    (out / MARKER).touch()
    demo(out)
    expect_what_it_makes(out, capsys.readouterr().out)


@pytest.mark.slow
def test_demo_as_it_is(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """The same by the command, each verb in a process of its own."""
    done = zoonnx("demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    expect_what_it_makes(tmp_path / "demo", done.stdout)


def test_a_verb_of_its_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is announced, runs in a process of its own, and ends the demo when it fails."""
    with pytest.raises(DemoError, match="'zoonnx check' ended with exit status 2; its reason stands above"):
        export.cli.demo._zoonnx("check", tmp_path / "nothing")
    said = capfd.readouterr()
    assert f"$ zoonnx check {tmp_path}/nothing" in said.out.replace("\n", "")
    assert said.err.startswith("zoonnx check: ")


def test_a_folder_of_somebody_else_stays(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """A folder that the demo did not make is not touched."""
    (tmp_path / "thesis.tex").write_text("...")
    done = zoonnx("demo", "--out", tmp_path)
    assert (done.returncode, "was not made by this demo" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"torch_accuracy": 0.96}, "96.0%, less than the 97% promised"),
        ({"same_classes": 99}, "1 of 100 classes differ"),
        ({"max_logit_difference": 1e-3}, "largest logit difference is 0.001"),
        ({"max_logit_difference": float("nan")}, "largest logit difference is nan"),
    ],
)
def test_broken_promises(change: dict[str, float], words: str) -> None:
    """Each promise that does not hold ends the demo."""
    require(GOOD)
    with pytest.raises(DemoError, match=re.escape(words)):
        require(dataclasses.replace(GOOD, **change))


def test_compare() -> None:
    """Answers are matched by file; accuracy, agreement and logits are each counted."""
    predictions = {
        "a.png": {"file": "images/1/a.png", "label": "1", "predicted": "1", "logit_0": "0.5", "logit_1": "2.0"},
        "b.png": {"file": "images/0/b.png", "label": "0", "predicted": "1", "logit_0": "1.0", "logit_1": "1.5"},
    }
    results = [
        {"file": "/x/b.png", "label": "0", "logits": [1.0, 1.25]},
        {"file": "/x/a.png", "label": "1", "logits": [0.5, 2.0]},
    ]
    found = compare(predictions, {"results": results, "images_per_s": 7.0})
    assert found == Comparison(2, 0.5, 1.0, 1, 0.25, 7.0)
    with pytest.raises(DemoError, match="2 images were sent, but the server answered for 1"):
        compare(predictions, {"results": results[:1], "images_per_s": 7.0})
