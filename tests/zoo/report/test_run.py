"""The report, the model card and the calibration at the end of a run."""

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
    """An error that stops the run."""


def report_and_card(run):
    """Return the run's report without its times, and its model card."""
    page, sections = TIMES.subn("", (run / "report.html").read_text())
    assert sections == 1
    return page, (run / "README.md").read_text()


def test_run_stores_its_temperature(short_run, digits):
    """The stored temperature is fitted on the validation split and measured on the test split, reproducibly."""
    loaded = load_network(short_run)
    val, test = (evaluate(loaded.network, digits.split(name), digits.preprocessing) for name in ("val", "test"))
    calibration = calibrate(val.logits, val.targets, test.logits, test.targets)
    metrics = loaded.weights.metrics
    assert {name: metrics[name] for name in calibration.to_json()} == pytest.approx(
        calibration.to_json(), rel=1e-3, abs=1e-5
    )
    assert metrics["ece_calibrated"] < metrics["ece"]


def test_report_metrics_and_eval_agree(command, short_run, read):
    """The report, best/metrics.json and `eval` have the same numbers."""
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


def test_same_settings_give_the_same_report_and_card(short_settings, short_run, tmp_path):
    """A second run with the same settings writes the same report, apart from the times, and the same card."""
    train(short_settings, tmp_path / short_run.name)
    assert report_and_card(tmp_path / short_run.name) == report_and_card(short_run)


def test_resumed_run_has_the_same_report_and_card(short_settings, short_run, tmp_path):
    """A run that was stopped and resumed writes the same files as one that was not."""
    events = []

    def stop(event):
        events.append(event)
        if len(events) == 27:
            raise StopError

    run = tmp_path / short_run.name
    with pytest.raises(StopError):
        train(short_settings, run, stop)
    train(short_settings, run, resume=True)
    assert report_and_card(run) == report_and_card(short_run)


def test_report_of_a_probe_has_images(tune_settings, painted, tmp_path, read):
    """The report shows images even if the run was trained on cached features."""
    transfer = replace(tune_settings.transfer, schedule="probe", cached=True)
    run = tmp_path / "run"
    result = train(replace(tune_settings, epochs=1, lr=1e-6, transfer=transfer), run)
    page = read((run / "report.html").read_text())
    misclassified = round((1 - result.test_accuracy) * 4)
    assert len(page.addresses) == misclassified > 0
    assert re.search(r"(red|blue)/\d{3}\.png", page.text)
    assert "zoonnx tune test_resnet" in page.text
    assert "--probe" in page.text
    assert "licence: unknown" in (run / "README.md").read_text()


def test_signals_are_drawn_as_curves(tmp_path):
    """The report of a run on signals has curves, and its card describes signals."""
    run = tmp_path / "run"
    train(TrainSettings(network="mlp", data="signal", epochs=1, workers=0, device="cpu"), run)
    assert 'class="signal"' in (run / "report.html").read_text()
    assert "A classifier of signals with 6 classes" in (run / "README.md").read_text()


def test_report_that_cannot_be_written(command, tmp_path, monkeypatch):
    """The run succeeds with all its metrics, and the table states that the report was not written."""

    def fail(file, evaluated):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.report.write.write_report", fail)
    run = tmp_path / "run"
    printed = command("train", "mlp", "--data", "digits", "--epochs", 1, "--device", "cpu", "--out", run)
    assert printed.status == 0
    assert "not written: [Errno 28] No space left on device" in printed.out
    assert load_network(run).weights.metrics.keys() >= {"test_accuracy", "temperature"}
    assert not (run / "report.html").exists()


def test_transfer_from_a_run(short_run, tmp_path):
    """The card of a run tuned from another run has that run's name, but not its path."""
    run = tmp_path / "tuned"
    settings = TrainSettings(
        network=str(short_run), data="digits", epochs=1, device="cpu", transfer=Transfer(schedule="probe", cached=True)
    )
    train(settings, run)
    card = (run / "README.md").read_text()
    assert "The weights were initialised from short" in card
    assert str(short_run.parent) not in card
