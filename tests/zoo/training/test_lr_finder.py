"""The learning rate range test: measurement, analysis and the command."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.registry import SOURCES, Source, load_dataset
from zoo.errors import TrainingError
from zoo.settings import TrainSettings, Transfer
from zoo.training.lr_finder import MAX_LR, MIN_LR, STEPS, analyse, find_lr, lr_of_step, smooth
from zoo.training.trainer import train

SETTINGS = TrainSettings(network="mlp", data="digits", device="cpu")


def planted(fall: float, rise: float) -> list[float]:
    """Return losses that fall from 3 to 1, most steeply at rate `fall`, then rise to 9, through 2 near `rise`."""
    logs = np.log10([lr_of_step(step) for step in range(STEPS)])
    down = 3 - 2 / (1 + np.exp(-6 * (logs - math.log10(fall))))
    return list(down + 8 / (1 + np.exp(-9 * (logs - math.log10(rise) - 0.21))))


class TestAnalysis:
    """Suggestion and divergence of curves of known shape."""

    @pytest.mark.parametrize(("fall", "rise"), [(1e-4, 1e-2), (3e-3, 0.5), (1e-2, 2.0)])
    def test_planted_rates_are_found(self, fall, rise) -> None:
        """Both rates are found to within a few steps; there are 20 per decade."""
        curve = analyse(planted(fall, rise))
        assert abs(math.log10(curve.suggested / fall)) < 0.15
        assert curve.diverges is not None
        assert abs(math.log10(curve.diverges / rise)) < 0.2

    def test_noise_before_the_descent_is_ignored(self) -> None:
        """A few easy batches at a tiny rate are steeper than the descent, but are not it."""
        losses = planted(3e-3, 0.5)
        dip = [loss - (3 if 30 <= step < 33 else 0) for step, loss in enumerate(losses)]
        assert abs(math.log10(analyse(dip).suggested / 3e-3)) < 0.15

    def test_nan_is_the_divergence(self) -> None:
        """The step with NaN is the divergence if no earlier step lost half of the fall."""
        curve = analyse([*planted(1e-3, 1e9)[:100], math.nan])
        assert curve.diverges == pytest.approx(lr_of_step(100))
        assert len(curve.losses) == 100

    def test_a_loss_that_never_rises_has_no_divergence(self) -> None:
        """A curve without a rise has no diverging rate."""
        assert analyse(planted(1e-3, 1e9)).diverges is None

    @pytest.mark.parametrize("losses", [[2.3 + 0.01 * step for step in range(50)], [math.nan]])
    def test_a_loss_that_never_fell_is_an_error(self, losses) -> None:
        """Without a descent there is no rate to suggest."""
        with pytest.raises(TrainingError, match="the loss did not fall at any learning rate"):
            analyse(losses)

    def test_smoothing_does_not_shift(self) -> None:
        """Smoothing leaves a peak at its step."""
        assert int(np.argmax(smooth([0.0] * 20 + [1.0] + [0.0] * 30))) == 20


class TestMeasurement:
    """The test with a real network on real data."""

    def test_rates_rise_by_equal_factors(self) -> None:
        """Rates go from MIN_LR to MAX_LR."""
        assert [lr_of_step(0), lr_of_step(STEPS - 1)] == pytest.approx([MIN_LR, MAX_LR])
        assert lr_of_step(11) / lr_of_step(10) == pytest.approx(lr_of_step(1) / lr_of_step(0))

    def test_the_curve_depends_on_the_seed_only(self) -> None:
        """A seed gives the same curve, another seed another one; the caller's generator is restored."""
        torch.manual_seed(3)
        before = torch.get_rng_state()
        first = find_lr(SETTINGS)
        assert torch.equal(torch.get_rng_state(), before)
        assert find_lr(SETTINGS) == first
        assert find_lr(replace(SETTINGS, seed=1)).losses != first.losses

    def test_a_planted_divergence_is_measured(self, monkeypatch) -> None:
        """Inputs ten times as large make plain SGD diverge at a far lower rate."""
        scaled = replace(load_dataset("digits"), name="scaled")
        preprocessing = replace(scaled.preprocessing, std=tuple(value / 10 for value in scaled.preprocessing.std))
        monkeypatch.setitem(SOURCES, "scaled", Source(lambda *_: replace(scaled, preprocessing=preprocessing)))
        settings = replace(SETTINGS, optimizer="sgd", weight_decay=0.0)
        original_rate, scaled_rate = find_lr(settings).diverges, find_lr(replace(settings, data="scaled")).diverges
        assert original_rate is not None
        assert scaled_rate is not None
        assert original_rate / scaled_rate > 3

    def test_the_suggested_rate_trains_well(self, tmp_path) -> None:
        """The suggested rate trains much better than a rate far below it."""
        settings = TrainSettings(network="convnet4", data="digits", epochs=2, device="cpu")
        suggested = find_lr(settings).suggested
        good = train(replace(settings, lr=suggested), tmp_path / "good").best.val_accuracy
        low = train(replace(settings, lr=suggested / 300), tmp_path / "low").best.val_accuracy
        assert good > 0.9 > low + 0.2

    def test_a_probe_writes_no_features(self, short_run, tmp_path, monkeypatch) -> None:
        """A cached probe is tested on its features, which are not stored."""
        monkeypatch.chdir(tmp_path)
        transfer = Transfer(schedule="probe", cached=True)
        curve = find_lr(TrainSettings(network=str(short_run), data="digits", transfer=transfer, device="cpu"))
        assert curve.losses[0] > min(curve.smoothed)
        assert list(tmp_path.iterdir()) == []
        assert not (short_run.parent / ".features").exists()


class TestCommand:
    """`zoonnx train ... --find-lr`."""

    def test_prints_a_rate_and_writes_a_plot(self, command, tmp_path) -> None:
        """No run is written; the plot shows a curve."""
        out = tmp_path / "run"
        finished = command("train", "mlp", "--data", "digits", "--out", out, "--device", "cpu", "--find-lr")
        curve = find_lr(SETTINGS)
        assert finished.status == 0
        assert f"--lr {curve.suggested:.2g}" in finished.out
        assert f"{curve.diverges:.2g}" in finished.out
        assert [file.name for file in tmp_path.iterdir()] == ["run.lr.png"]
        assert (tmp_path / "run.lr.png").read_bytes() == curve.png()
        colours = np.array(Image.open(io.BytesIO(curve.png()))).reshape(-1, 3)
        assert (colours == (206, 92, 40)).all(axis=1).sum() > 500

    @pytest.mark.parametrize("other", [["--resume"], ["--folds", "3"]])
    def test_cannot_be_combined_with_a_run(self, command, tmp_path, other) -> None:
        """--resume and --folds are refused with --find-lr."""
        finished = command("train", "mlp", "--data", "digits", "--out", tmp_path / "run", "--find-lr", *other)
        assert (finished.status, list(tmp_path.iterdir())) == (2, [])
        assert "--find-lr trains no run" in finished.err
