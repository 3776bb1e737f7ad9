"""Heads on stored features."""

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
    """A cached probe."""
    transfer = replace(tune_settings.transfer, schedule="probe", cached=True)
    return replace(tune_settings, lr=1e-2, epochs=3, transfer=transfer)


@pytest.fixture
def computed(monkeypatch):
    """The number of images whose features were computed."""
    counts = []
    original = feature_cache._compute
    monkeypatch.setattr(
        feature_cache,
        "_compute",
        lambda network, split, rule: [counts.append(len(split)), original(network, split, rule)][1],
    )
    return counts


@pytest.mark.parametrize("head", ["linear", "attention"])
def test_a_cached_probe_is_a_probe_without_augmentation(settings, tmp_path, head):
    """The same losses step by step, and the same test accuracy, as through the frozen backbone."""
    cached = replace(settings, transfer=replace(settings.transfer, head=head))
    plain = replace(cached, flip=0.0, min_crop=1.0, transfer=replace(cached.transfer, cached=False))
    losses, results = [[], []], []
    for index, each in enumerate((cached, plain)):
        seen = losses[index]
        observe = lambda event, seen=seen: seen.append(event.loss) if isinstance(event, Step) else None  # noqa: E731
        results.append(train(each, tmp_path / str(index), observe))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert results[0].test_accuracy == results[1].test_accuracy


def test_features_are_computed_once(settings, computed, tmp_path):
    """Another head, other settings: nothing is computed again."""
    train(settings, tmp_path / "one")
    assert computed == [32, 4, 4]
    train(replace(settings, lr=1e-3, transfer=replace(settings.transfer, head="mlp")), tmp_path / "two")
    assert computed == [32, 4, 4]
    assert {file.suffix for file in (tmp_path / ".features").iterdir()} == {".safetensors"}


def test_a_head_on_maps_has_features_of_its_own(settings, computed, tmp_path):
    """A map is not a vector."""
    for head in ("linear", "conv1x1"):
        train(replace(settings, epochs=1, transfer=replace(settings.transfer, head=head)), tmp_path / head)
    assert computed == [32, 4, 4] * 2


@pytest.mark.parametrize("what", ["data", "backbone", "size", "file"])
def test_features_are_computed_again_when_something_changed(settings, computed, painted, tmp_path, what):
    """A file touched, other weights, another size, features cut short."""
    import shutil

    import safetensors.torch

    root = shutil.copytree(painted, tmp_path / "colours")
    once = replace(settings, data=f"folder:{root}", epochs=1)
    train(once, tmp_path / "one")
    again = once
    if what == "data":
        for file in root.rglob("*.png"):
            os.utime(file, (1, 1))
    elif what == "size":
        again = replace(once, input_size=(3, 48, 48))
    elif what == "backbone":
        weights = safetensors.torch.load_file(once.transfer.pretrained_file)
        weights["layer4.0.bn1.running_mean"] += 1
        safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
        again = replace(once, transfer=replace(once.transfer, pretrained_file=str(tmp_path / "w.safetensors")))
    else:
        for file in (tmp_path / ".features").iterdir():
            file.write_bytes(file.read_bytes()[:50])
    train(again, tmp_path / "two")
    assert computed == [32, 4, 4] * 2


def test_the_run_is_a_whole_net(settings, tmp_path):
    """It looks at images, with the accuracy that was noted on features."""
    train(settings, tmp_path / "run")
    loaded = load_network(tmp_path / "run")
    test = find_data(settings.data).for_net(loaded.preprocessing).test
    assert evaluate(loaded.network, test, loaded.preprocessing).accuracy == loaded.weights.metrics["test_accuracy"]
    assert not any(torch.isnan(value).any() for value in loaded.network.state_dict().values())


@pytest.mark.parametrize(
    "change", [{"flip": 0.5}, {"min_crop": 0.5}, {"max_shift_px": 1}, {"mixup": 0.1}, {"rand_augment": 1}], ids=str
)
def test_augmentation_is_refused(settings, change):
    """It would have no effect."""
    with pytest.raises(SettingsError, match=f"{next(iter(change))} must be left out where features are cached"):
        replace(settings, **change)


def test_another_schedule_is_refused():
    """A backbone that learns has no constant features."""
    with pytest.raises(SettingsError, match="schedule must be probe where features are cached; got gradual"):
        Transfer(schedule="gradual", cached=True)


def test_probe_from_the_command_line(command, settings, tmp_path):
    """--probe needs no schedule."""
    options = ["--pretrained-file", settings.transfer.pretrained_file, "--input-size", "3,32,32", "--workers", 0]
    said = command("tune", "test_resnet", "--data", settings.data, "--out", tmp_path / "run", "--probe", *options)
    assert said.status == 0, said.err
    assert len(list((tmp_path / ".features").iterdir())) == 3
