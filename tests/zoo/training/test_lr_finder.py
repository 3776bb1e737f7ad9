"""The learning rate range test: what it measures, what it says, what it leaves behind."""

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
from zoo.training.lr_finder import HIGHEST, LOWEST, STEPS, find_lr, judge, rate_of, smooth
from zoo.training.trainer import train

SETTINGS = TrainSettings(network="mlp", data="digits", device="cpu")


def planted(fall: float, rise: float) -> list[float]:
    """Losses that fall from 3 to 1, most steeply at rate `fall`, and rise to 9, half of the fall lost near `rise`."""
    logs = np.log10([rate_of(step) for step in range(STEPS)])
    down = 3 - 2 / (1 + np.exp(-6 * (logs - math.log10(fall))))
    return list(down + 8 / (1 + np.exp(-9 * (logs - math.log10(rise) - 0.21))))


class TestJudgement:
    """What a curve of known shape says."""

    @pytest.mark.parametrize(("fall", "rise"), [(1e-4, 1e-2), (3e-3, 0.5), (1e-2, 2.0)])
    def test_planted_places_are_found(self, fall, rise) -> None:
        """To within a few of the test's steps, 20 a decade."""
        curve = judge(planted(fall, rise))
        assert abs(math.log10(curve.suggested / fall)) < 0.15
        assert curve.diverges is not None
        assert abs(math.log10(curve.diverges / rise)) < 0.2

    def test_noise_before_the_fall_is_no_fall(self) -> None:
        """A few easy batches at a rate that teaches nothing are steeper than a slow fall, and not what is meant."""
        losses = planted(3e-3, 0.5)
        dip = [loss - (3 if 30 <= step < 33 else 0) for step, loss in enumerate(losses)]
        assert abs(math.log10(judge(dip).suggested / 3e-3)) < 0.15

    def test_a_loss_that_is_no_number_is_the_divergence(self) -> None:
        """Where no step before it had lost half of the fall."""
        curve = judge([*planted(1e-3, 1e9)[:100], math.nan])
        assert curve.diverges == pytest.approx(rate_of(100))
        assert len(curve.losses) == 100

    def test_a_loss_that_never_rises_has_no_divergence(self) -> None:
        """Nothing is made up."""
        assert judge(planted(1e-3, 1e9)).diverges is None

    @pytest.mark.parametrize("losses", [[2.3 + 0.01 * step for step in range(50)], [math.nan]])
    def test_a_loss_that_never_fell_suggests_nothing(self, losses) -> None:
        """There is no rate to be recommended."""
        with pytest.raises(TrainingError, match="the loss did not fall at any learning rate"):
            judge(losses)

    def test_smoothing_moves_no_step(self) -> None:
        """A peak stays where it is."""
        assert int(np.argmax(smooth([0.0] * 20 + [1.0] + [0.0] * 30))) == 20


class TestMeasurement:
    """The real network, on the real data."""

    def test_rates_rise_by_equal_factors(self) -> None:
        """From the lowest to the highest."""
        assert [rate_of(0), rate_of(STEPS - 1)] == pytest.approx([LOWEST, HIGHEST])
        assert rate_of(11) / rate_of(10) == pytest.approx(rate_of(1) / rate_of(0))

    def test_a_seed_gives_the_same_curve_and_leaves_the_callers_generator(self) -> None:
        """Another one another."""
        torch.manual_seed(3)
        before = torch.get_rng_state()
        first = find_lr(SETTINGS)
        assert torch.equal(torch.get_rng_state(), before)
        assert find_lr(SETTINGS) == first
        assert find_lr(replace(SETTINGS, seed=1)).losses != first.losses

    def test_a_planted_divergence_is_measured(self, monkeypatch) -> None:
        """Inputs ten times as large make plain SGD diverge at a far lower rate."""
        loud = replace(load_dataset("digits"), name="loud")
        rule = replace(loud.preprocessing, std=tuple(value / 10 for value in loud.preprocessing.std))
        monkeypatch.setitem(SOURCES, "loud", Source(lambda *_: replace(loud, preprocessing=rule)))
        settings = replace(SETTINGS, optimizer="sgd", weight_decay=0.0)
        quiet, shrill = find_lr(settings).diverges, find_lr(replace(settings, data="loud")).diverges
        assert quiet is not None
        assert shrill is not None
        assert quiet / shrill > 3

    def test_the_suggested_rate_trains_well(self, tmp_path) -> None:
        """And much better than a rate far below it."""
        settings = TrainSettings(network="convnet4", data="digits", epochs=2, device="cpu")
        suggested = find_lr(settings).suggested
        good = train(replace(settings, lr=suggested), tmp_path / "good").best.val_accuracy
        low = train(replace(settings, lr=suggested / 300), tmp_path / "low").best.val_accuracy
        assert good > 0.9 > low + 0.2

    def test_a_probe_is_tested_on_its_features(self, short_run, tmp_path, monkeypatch) -> None:
        """Which are not stored: nothing but the curve comes of it."""
        monkeypatch.chdir(tmp_path)
        transfer = Transfer(schedule="probe", cached=True)
        curve = find_lr(TrainSettings(network=str(short_run), data="digits", transfer=transfer, device="cpu"))
        assert curve.losses[0] > min(curve.smoothed)
        assert list(tmp_path.iterdir()) == []
        assert not (short_run.parent / ".features").exists()


class TestCommand:
    """`zoonnx train ... --find-lr`."""

    def test_it_prints_a_rate_and_leaves_a_image(self, command, tmp_path) -> None:
        """And no run; the image shows a curve."""
        out = tmp_path / "run"
        said = command("train", "mlp", "--data", "digits", "--out", out, "--device", "cpu", "--find-lr")
        curve = find_lr(SETTINGS)
        assert said.status == 0
        assert f"--lr {curve.suggested:.2g}" in said.out
        assert f"{curve.diverges:.2g}" in said.out
        assert [each.name for each in tmp_path.iterdir()] == ["run.lr.png"]
        assert (tmp_path / "run.lr.png").read_bytes() == curve.png()
        colours = np.array(Image.open(io.BytesIO(curve.png()))).reshape(-1, 3)
        assert (colours == (206, 92, 40)).all(axis=1).sum() > 500

    @pytest.mark.parametrize("other", [["--resume"], ["--folds", "3"]])
    def test_it_goes_with_nothing_that_makes_a_run(self, command, tmp_path, other) -> None:
        """That would be a misunderstanding."""
        said = command("train", "mlp", "--data", "digits", "--out", tmp_path / "run", "--find-lr", *other)
        assert (said.status, list(tmp_path.iterdir())) == (2, [])
        assert "--find-lr makes no run" in said.err
