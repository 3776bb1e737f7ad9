"""Rare classes that count more, or are drawn more often."""

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
def lopsided(tmp_path_factory) -> Path:
    """Sixty grey images with bright noise and six with dark noise, hard to tell apart; to be read only."""
    root = tmp_path_factory.mktemp("images") / "lopsided"
    rng = np.random.default_rng(0)
    for label, count, level in (("many", 60, 135), ("rare", 6, 115)):
        (root / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(rng.normal(level, 40, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def settings(lopsided) -> TrainSettings:
    """Two epochs of six steps."""
    return TrainSettings(
        network="convnet4",
        data=f"folder:{lopsided}",
        epochs=2,
        batch_size=8,
        input_size=(1, 8, 8),
        min_crop=0.8,
        workers=0,
        device="cpu",
    )


def weights(run: Path) -> bytes:
    return (run / "last" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("imbalance", ["weights", "sampler"])
def test_it_changes_the_weights(settings, tmp_path, imbalance):
    """And a sampled run goes on bit by bit: the draw is a function of seed and epoch."""

    def stop(event):
        if getattr(event, "batch", 0) == 3 and event.epoch == 2:
            raise ZooError("stopped")

    chosen = replace(settings, imbalance=imbalance, checkpoint_every_steps=1)
    train(chosen, tmp_path / "whole")
    with pytest.raises(ZooError, match="stopped"):
        train(chosen, tmp_path / "stopped", stop)
    train(replace(chosen, workers=2), tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    train(settings, tmp_path / "plain")
    assert weights(tmp_path / "plain") != weights(tmp_path / "whole")


def test_the_sampler_shows_both_classes_alike(settings, tmp_path, monkeypatch):
    """The rare one in about half of what the network is trained on, each time another look at it."""
    from zoo.training import epoch

    seen, original = [], epoch._step

    def step(session, x, targets, weight):
        seen.append((x.clone(), targets))
        return original(session, x, targets, weight)

    monkeypatch.setattr(epoch, "_step", step)
    train(replace(settings, imbalance="sampler", epochs=4), tmp_path / "run")
    targets = torch.cat([each for _, each in seen])
    assert 0.3 < targets.float().mean() < 0.7
    rare = torch.cat([x[each == 1] for x, each in seen])
    images, epochs = 4, 4
    assert len(rare.flatten(1).unique(dim=0)) > 2 * images * epochs


def test_an_unknown_way_is_refused(settings):
    """By name."""
    with pytest.raises(SettingsError, match="imbalance must be one of none, weights, sampler; got oversample"):
        replace(settings, imbalance="oversample")
