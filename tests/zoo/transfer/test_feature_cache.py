"""Heads trained on cached features."""

import os
from dataclasses import replace

import pytest
import torch

from zoo.data.registry import find_data
from zoo.errors import SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.runs.load import load_network
from zoo.settings import Transfer
from zoo.training.trainer import Step, train
from zoo.transfer import feature_cache


@pytest.fixture(scope="session")
def settings(tune_settings):
    """Settings of a probe on cached features."""
    transfer = replace(tune_settings.transfer, schedule="probe", cached=True)
    return replace(tune_settings, lr=1e-2, epochs=3, transfer=transfer)


@pytest.fixture
def computed(monkeypatch):
    """Return a list of the numbers of images whose features were computed."""
    counts = []
    original = feature_cache._compute

    def compute(network, split, preprocessing):
        counts.append(len(split))
        return original(network, split, preprocessing)

    monkeypatch.setattr(feature_cache, "_compute", compute)
    return counts


@pytest.mark.parametrize("head", ["linear", "attention"])
def test_a_cached_probe_equals_a_probe_without_augmentation(settings, tmp_path, head):
    """Losses and test accuracy equal those of training through the frozen backbone."""
    cached = replace(settings, transfer=replace(settings.transfer, head=head))
    uncached = replace(cached, flip=0.0, min_crop=1.0, transfer=replace(cached.transfer, cached=False))
    losses, results = [[], []], []
    for run_losses, run_settings in zip(losses, (cached, uncached), strict=True):

        def observe(event, run_losses=run_losses):
            if isinstance(event, Step):
                run_losses.append(event.loss)

        results.append(train(run_settings, tmp_path / str(len(results)), observe))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert results[0].test_accuracy == results[1].test_accuracy


def test_features_are_computed_once(settings, computed, tmp_path):
    """A run with another head and learning rate reads the stored features."""
    train(settings, tmp_path / "one")
    assert computed == [32, 4, 4]
    train(replace(settings, lr=1e-3, transfer=replace(settings.transfer, head="mlp")), tmp_path / "two")
    assert computed == [32, 4, 4]
    assert {file.suffix for file in (tmp_path / ".features").iterdir()} == {".safetensors"}


def test_a_head_on_feature_maps_has_its_own_features(settings, computed, tmp_path):
    """Feature vectors and feature maps are stored separately."""
    for head in ("linear", "conv1x1"):
        train(replace(settings, epochs=1, transfer=replace(settings.transfer, head=head)), tmp_path / head)
    assert computed == [32, 4, 4] * 2


@pytest.mark.parametrize("changed", ["data", "backbone", "size", "file"])
def test_features_are_computed_again_after_a_change(settings, computed, painted, tmp_path, changed):
    """A modified image, other weights, another input size and a damaged feature file invalidate the cache."""
    import shutil

    import safetensors.torch

    root = shutil.copytree(painted, tmp_path / "colours")
    first = replace(settings, data=f"folder:{root}", epochs=1)
    train(first, tmp_path / "one")
    second = first
    if changed == "data":
        for file in root.rglob("*.png"):
            os.utime(file, (1, 1))
    elif changed == "size":
        second = replace(first, input_size=(3, 48, 48))
    elif changed == "backbone":
        weights = safetensors.torch.load_file(first.transfer.pretrained_file)
        weights["layer4.0.bn1.running_mean"] += 1
        safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
        second = replace(first, transfer=replace(first.transfer, pretrained_file=str(tmp_path / "w.safetensors")))
    else:
        for file in (tmp_path / ".features").iterdir():
            file.write_bytes(file.read_bytes()[:50])
    train(second, tmp_path / "two")
    assert computed == [32, 4, 4] * 2


def test_the_run_contains_the_backbone(settings, tmp_path):
    """The loaded network accepts images and has the test accuracy measured on features."""
    train(settings, tmp_path / "run")
    loaded = load_network(tmp_path / "run")
    test = find_data(settings.data).for_network(loaded.preprocessing).test
    assert evaluate(loaded.network, test, loaded.preprocessing).accuracy == loaded.weights.metrics["test_accuracy"]
    assert not any(torch.isnan(value).any() for value in loaded.network.state_dict().values())


@pytest.mark.parametrize(
    "change", [{"flip": 0.5}, {"min_crop": 0.5}, {"max_shift_px": 1}, {"mixup": 0.1}, {"rand_augment": 1}], ids=str
)
def test_augmentation_is_rejected(settings, change):
    """Augmentation has no effect on cached features."""
    with pytest.raises(SettingsError, match=f"{next(iter(change))} must be omitted if features are cached"):
        replace(settings, **change)


def test_another_schedule_is_rejected():
    """The features of a backbone that is trained change."""
    with pytest.raises(SettingsError, match="schedule must be probe if features are cached; got gradual"):
        Transfer(schedule="gradual", cached=True)


def test_probe_from_the_command_line(command, settings, tmp_path):
    """--probe alone caches the features of three splits."""
    options = ["--pretrained-file", settings.transfer.pretrained_file, "--input-size", "3,32,32", "--workers", 0]
    result = command("tune", "test_resnet", "--data", settings.data, "--out", tmp_path / "run", "--probe", *options)
    assert result.status == 0, result.err
    assert len(list((tmp_path / ".features").iterdir())) == 3
