"""Class imbalance: rare classes have more weight in the loss, or are sampled more often."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.errors import SettingsError, ZooError
from zoo.settings import TrainSettings
from zoo.training.trainer import train


@pytest.fixture(scope="session")
def imbalanced(tmp_path_factory) -> Path:
    """Write sixty grey images with bright noise and six with dark noise, hard to tell apart; read-only."""
    root = tmp_path_factory.mktemp("images") / "imbalanced"
    rng = np.random.default_rng(0)
    for label, count, level in (("many", 60, 135), ("rare", 6, 115)):
        (root / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(rng.normal(level, 40, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def settings(imbalanced) -> TrainSettings:
    """Settings of two epochs of six steps."""
    return TrainSettings(
        network="convnet4",
        data=f"folder:{imbalanced}",
        epochs=2,
        batch_size=8,
        input_size=(1, 8, 8),
        min_crop=0.8,
        workers=0,
        device="cpu",
    )


def weights(run: Path) -> bytes:
    """Read the file of the last weights."""
    return (run / "last" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("imbalance", ["weights", "sampler"])
def test_imbalance_changes_the_weights(settings, tmp_path, imbalance):
    """The setting has an effect, and a stopped run resumes bit for bit: draws depend on seed and epoch only."""

    def stop(event):
        if getattr(event, "batch", 0) == 3 and event.epoch == 2:
            raise ZooError("stopped")

    chosen = replace(settings, imbalance=imbalance, checkpoint_every_steps=1)
    train(chosen, tmp_path / "uninterrupted")
    with pytest.raises(ZooError, match="stopped"):
        train(chosen, tmp_path / "stopped", stop)
    train(replace(chosen, workers=2), tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "uninterrupted")
    train(settings, tmp_path / "plain")
    assert weights(tmp_path / "plain") != weights(tmp_path / "uninterrupted")


def test_the_sampler_balances_the_classes(settings, tmp_path, monkeypatch):
    """About half of the training images are of the rare class, each time augmented differently."""
    from zoo.training import epoch

    batches, original = [], epoch._step

    def step(context, x, targets, weight):
        batches.append((x.clone(), targets))
        return original(context, x, targets, weight)

    monkeypatch.setattr(epoch, "_step", step)
    train(replace(settings, imbalance="sampler", epochs=4), tmp_path / "run")
    targets = torch.cat([batch_targets for _, batch_targets in batches])
    assert 0.3 < targets.float().mean() < 0.7
    rare = torch.cat([x[batch_targets == 1] for x, batch_targets in batches])
    images, epochs = 4, 4
    assert len(rare.flatten(1).unique(dim=0)) > 2 * images * epochs


def test_an_unknown_imbalance_is_refused(settings):
    """The error lists the choices."""
    with pytest.raises(SettingsError, match="imbalance must be one of none, weights, sampler; got oversample"):
        replace(settings, imbalance="oversample")
