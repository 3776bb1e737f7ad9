"""Mixup and CutMix, which mix images in pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from zoo.errors import SettingsError
from zoo.training import epoch as training
from zoo.training.trainer import train


@pytest.fixture
def batches(monkeypatch):
    """The network's inputs and targets of each training step."""
    steps, original = [], training._step

    def step(session, x, targets, count):
        steps.append((x.clone(), targets.clone()))
        return original(session, x, targets, count)

    monkeypatch.setattr(training, "_step", step)
    return steps


def test_mixup_blends_images_and_targets_alike(short_settings, batches, tmp_path, digits):
    """Each input is lam times an image plus 1 - lam times its partner, and each target likewise."""
    train(replace(short_settings, epochs=1, max_shift_px=0), tmp_path / "plain")
    plain = batches.copy()
    batches.clear()
    train(replace(short_settings, epochs=1, max_shift_px=0, mixup=1.0), tmp_path / "mixed")
    for (x, targets), (mixed, shares) in zip(plain, batches, strict=True):
        one_hot = torch.nn.functional.one_hot(targets, 10).float()
        lam = (shares * one_hot).sum(1).min()
        torch.testing.assert_close(mixed, lam * x + (1 - lam) * x.flip(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(shares, lam * one_hot + (1 - lam) * one_hot.flip(0), rtol=1e-4, atol=1e-4)


def test_cutmix_pastes_a_piece(short_settings, batches, tmp_path):
    """Each pixel comes from the image or from its partner, and the targets sum to 1."""
    train(replace(short_settings, epochs=1, max_shift_px=0), tmp_path / "plain")
    plain = batches.copy()
    batches.clear()
    train(replace(short_settings, epochs=1, max_shift_px=0, cutmix=1.0), tmp_path / "mixed")
    pasted = 0
    for (x, _), (mixed, shares) in zip(plain, batches, strict=True):
        assert ((mixed == x) | (mixed == x.flip(0))).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))
        pasted += int((mixed != x).any())
    assert pasted > 10


def test_mixing_restores_numpys_generator(short_settings, tmp_path):
    """Mixing draws from NumPy's global generator with its own seed, and restores its state."""
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    train(replace(short_settings, epochs=1, mixup=0.5), tmp_path / "run")
    assert np.random.rand() == expected


def test_an_odd_batch_cannot_be_mixed(short_settings):
    """Mixing in pairs needs an even batch size."""
    with pytest.raises(SettingsError, match="batch_size must be even if images are mixed in pairs; got 33"):
        replace(short_settings, batch_size=33, mixup=0.5)
