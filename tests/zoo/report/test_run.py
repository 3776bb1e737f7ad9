"""What a run ends with."""

import json
import re
from dataclasses import replace

import pytest

from zoo.evaluation.calibration import calibrate
from zoo.evaluation.evaluate import evaluate
from zoo.runs.load import load_network
from zoo.settings import TrainSettings, Transfer
from zoo.training.trainer import train

TIMES = re.compile(r'<section id="times">.*?</section>', re.DOTALL)


class StopError(Exception):
    """Whatever ends a process."""


def papers(run):
    """The report without its times, and the card."""
    page, found = TIMES.subn("", (run / "report.html").read_text())
    assert found == 1
    return page, (run / "README.md").read_text()


def test_a_run_ends_with_its_temperature(short_run, digits):
    """Fitted on the validation split, measured on the test split; both can be done again."""
    loaded = load_network(short_run)
    val, test = (evaluate(loaded.network, digits.split(name), digits.preprocessing) for name in ("val", "test"))
    again = calibrate(val.logits, val.targets, test.logits, test.targets)
    metrics = loaded.weights.metrics
    assert {name: metrics[name] for name in again.to_json()} == pytest.approx(again.to_json(), rel=1e-3, abs=1e-5)
    assert metrics["ece_calibrated"] < metrics["ece"]


def test_report_metrics_and_eval_agree(command, short_run, read):
    """One number, wherever it stands."""
    metrics = json.loads((short_run / "best" / "metrics.json").read_text())
    evaluated = json.loads(command("eval", short_run, "--data", "digits", "--json").out)
    page = read((short_run / "report.html").read_text())
    for name in ("ece", "ece_calibrated", "temperature"):
        assert evaluated[name] == pytest.approx(metrics[name], rel=1e-3, abs=1e-5)
    assert evaluated["accuracy"] == metrics["test_accuracy"]
    for name in ("test_accuracy", "ece", "ece_calibrated"):
        assert f"{metrics[name]:.2%}".replace("%", "\N{NO-BREAK SPACE}%") in page.text
    assert f"{metrics['temperature']:.4g}" in page.text
    assert "Learning rate" in page.text
    table = command("eval", short_run, "--data", "digits").out
    assert f"{metrics['ece']:.2%} as trained, {metrics['ece_calibrated']:.2%} at temperature" in table


def test_the_same_settings_give_the_same_papers(short_settings, short_run, tmp_path):
    """But for the times, which stand in one place."""
    train(short_settings, tmp_path / short_run.name)
    assert papers(tmp_path / short_run.name) == papers(short_run)


def test_a_run_that_stopped_ends_with_the_same_papers(short_settings, short_run, tmp_path):
    """As if it had not."""
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) == 27:
            raise StopError

    run = tmp_path / short_run.name
    with pytest.raises(StopError):
        train(short_settings, run, stop)
    train(short_settings, run, resume=True)
    assert papers(run) == papers(short_run)


def test_a_probe_shows_the_images(tune_settings, painted, tmp_path, read):
    """Also where the run itself has seen nothing but stored features."""
    transfer = replace(tune_settings.transfer, schedule="probe", cached=True)
    run = tmp_path / "run"
    result = train(replace(tune_settings, epochs=1, lr=1e-6, transfer=transfer), run)
    page = read((run / "report.html").read_text())
    wrong = round((1 - result.test_accuracy) * 4)
    assert len(page.addresses) == wrong > 0
    assert re.search(r"(red|blue)/\d{3}\.png", page.text)
    assert "zoonnx tune test_resnet" in page.text
    assert "--probe" in page.text
    assert "licence: not known" in (run / "README.md").read_text()


def test_signals_are_drawn(tmp_path):
    """As curves."""
    run = tmp_path / "run"
    train(TrainSettings(network="mlp", data="signal", epochs=1, workers=0, device="cpu"), run)
    assert 'class="signal"' in (run / "report.html").read_text()
    assert "A classifier of signals with 6 classes" in (run / "README.md").read_text()


def test_a_report_that_cannot_be_written_loses_nothing(command, tmp_path, monkeypatch):
    """The run ends well, with all of its numbers; the table says what is missing."""

    def full(file, subject):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.report.write.write_report", full)
    run = tmp_path / "run"
    said = command("train", "mlp", "--data", "digits", "--epochs", 1, "--device", "cpu", "--out", run)
    assert said.status == 0
    assert "not written: [Errno 28] No space left on device" in said.out
    assert load_network(run).weights.metrics.keys() >= {"test_accuracy", "temperature"}
    assert not (run / "report.html").exists()


def test_transfer_from_a_run_names_it(short_run, tmp_path):
    """By its name, not by its place."""
    run = tmp_path / "tuned"
    settings = TrainSettings(
        network=str(short_run), data="digits", epochs=1, device="cpu", transfer=Transfer(schedule="probe", cached=True)
    )
    train(settings, run)
    card = (run / "README.md").read_text()
    assert "The weights began as those of short" in card
    assert str(short_run.parent) not in card
