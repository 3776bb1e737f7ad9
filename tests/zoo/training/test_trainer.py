"""The training loop."""

import json
from dataclasses import replace

import pytest
import timm
import torch

from zoo.data.registry import load_dataset
from zoo.errors import DeviceError, SettingsError, TrainingError
from zoo.evaluation.evaluate import evaluate
from zoo.runs.checkpoint import read_checkpoint
from zoo.runs.load import load_network
from zoo.settings import TrainSettings
from zoo.training.epoch import Step
from zoo.training.results import EpochMetrics
from zoo.training.trainer import train


def weights(run, checkpoint="last"):
    """Read the file of a checkpoint's weights."""
    return (run / checkpoint / "model.safetensors").read_bytes()


def metrics(run):
    """Read the lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_default_recipe_is_good(tmp_path):
    """Ten seeds of convnet4 on digits reach 99.0 % test accuracy on average, and 97.5 % each."""
    settings = [TrainSettings(network="convnet4", data="digits", seed=seed) for seed in range(10)]
    accuracies = [train(run_settings, tmp_path / str(run_settings.seed)).test_accuracy for run_settings in settings]
    assert sum(accuracies) / 10 >= 0.990
    assert min(accuracies) >= 0.975


def test_four_epochs_learn_digits(tmp_path):
    """A short run reaches 93 % test accuracy."""
    result = train(TrainSettings(network="convnet4", data="digits", epochs=4), tmp_path / "run")
    assert result.test_accuracy > 0.93


def test_same_seed_gives_the_same_weights(short_settings, short_run, tmp_path):
    """The weights are equal bit for bit, whatever the state of the random generators before."""
    torch.manual_seed(999)
    torch.rand(7)
    train(short_settings, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(short_run)
    assert load_network(tmp_path / "again").weights == load_network(short_run).weights


def test_randomness_depends_on_seed_epoch_and_batch_only(short_settings, short_run, tmp_path):
    """Drawing from torch's generator between steps and epochs changes nothing."""
    train(short_settings, tmp_path / "disturbed", observe=lambda event: torch.rand(3))
    assert weights(tmp_path / "disturbed") == weights(short_run)


def test_other_seed_gives_other_weights(short_settings, short_run, tmp_path):
    """The seed has an effect."""
    train(replace(short_settings, seed=1), tmp_path / "other")
    assert weights(tmp_path / "other") != weights(short_run)


def test_leaves_the_callers_generator_alone(short_settings, tmp_path):
    """The caller's generator continues as without training."""
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    train(replace(short_settings, epochs=1), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"lr": 1e-3},
        {"weight_decay": 1.0},
        {"label_smoothing": 0.0},
        {"drop_rate": 0.5},
        {"max_shift_px": 0},
        {"batch_size": 50},
        {"rand_augment": 5},
        {"mixup": 0.5},
        {"cutmix": 0.5},
        {"layer_decay": 0.5},
        {"ema_decay": 0.9},
        {"mixed_precision": "bf16"},
        {"accumulate_steps": 2},
        {"clip_grad_norm": 0.1},
        {"epochs": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_has_an_effect(short_settings, one_epoch_weights, tmp_path, change):
    """Each setting changes the weights."""
    train(replace(short_settings, **{"epochs": 1, **change}), tmp_path / "run")
    assert weights(tmp_path / "run") != one_epoch_weights


@pytest.fixture(scope="module")
def one_epoch_weights(short_settings, tmp_path_factory):
    """Return the weights after one epoch of the unchanged settings."""
    run = tmp_path_factory.mktemp("one") / "run"
    train(replace(short_settings, epochs=1), run)
    return weights(run)


def test_metrics_have_a_line_for_each_epoch(short_run):
    """Epochs are counted from 1, and the training loss falls."""
    first, second = metrics(short_run)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert second["train_loss"] < first["train_loss"]


def test_best_is_the_highest_validation_accuracy(short_run):
    """best/ contains the best epoch by metrics.jsonl, last/ the last one."""
    best = max(metrics(short_run), key=lambda line: (line["val_accuracy"], -line["val_loss"]))
    assert read_checkpoint(short_run / "best").metrics["epoch"] == best["epoch"]
    assert read_checkpoint(short_run / "last").metrics["epoch"] == 2


def test_best_stays_when_later_epochs_are_worse(short_settings, tmp_path, monkeypatch, digits):
    """Of equal accuracies the lower loss is best, worse epochs do not replace it, and the best one is tested."""
    measured = [EpochMetrics(1, 1.0, 0.3, 0.9), EpochMetrics(2, 1.0, 0.2, 0.9), EpochMetrics(3, 1.0, 0.1, 0.8)]
    monkeypatch.setattr("zoo.training.trainer._validate", lambda context, epoch, train_loss: measured[epoch - 1])
    result = train(replace(short_settings, epochs=3), tmp_path / "run")
    assert result.best == measured[1]
    best = load_network(tmp_path / "run")
    evaluation = evaluate(best.network, digits.test, best.preprocessing)
    assert best.weights.metrics["epoch"] == 2
    assert best.weights.metrics["test_loss"] == pytest.approx(evaluation.loss)


def test_test_accuracy_is_that_of_the_best_weights(short_run, digits):
    """Evaluating the best checkpoint reproduces the test metrics in best/metrics.json."""
    loaded = load_network(short_run)
    evaluation = evaluate(loaded.network, digits.test, loaded.preprocessing)
    assert loaded.weights.metrics["test_accuracy"] == evaluation.accuracy
    assert loaded.weights.metrics["test_loss"] == pytest.approx(evaluation.loss)


def test_observer_receives_every_step_and_epoch(short_settings, tmp_path):
    """The observer receives 20 steps of 64 images, then the epoch's metrics."""
    events = []
    train(replace(short_settings, epochs=1), tmp_path / "run", events.append)
    assert [(step.batch, step.batches, step.images) for step in events[:-1]] == [(n, 20, 64) for n in range(1, 21)]
    assert isinstance(events[-1], EpochMetrics)


def test_learning_rate_rises_and_falls(short_settings, tmp_path):
    """The learning rate warms up to lr over a tenth of the 40 steps, then falls to almost 0."""
    events = []
    train(short_settings, tmp_path / "run", events.append)
    rates = [event.lr for event in events if isinstance(event, Step)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[4] == pytest.approx(short_settings.lr, rel=0.05)
    assert rates[-1] < 0.01 * short_settings.lr


def test_nan_loss_stops_with_epoch_and_batch(short_settings, tmp_path):
    """The error of a diverging run has exit status 1: failed work, not the user's mistake."""
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in epoch 1, batch \d+ of 20") as caught:
        train(replace(short_settings, optimizer="sgd", lr=1e30), tmp_path / "run")
    assert caught.value.exit_status == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_device_is_refused(short_settings, tmp_path):
    """The error lists the available devices."""
    with pytest.raises(DeviceError, match="there is no device 'cuda' on this machine; choose one of auto, cpu"):
        train(replace(short_settings, device="cuda"), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamww"}, "timm has no optimizer 'adamww'; did you mean 'adamw'"),
        ({"optimizer": "adahessian"}, "the optimizer 'adahessian' needs second derivatives"),
        ({"optimizer": "bnbadam"}, "the optimizer 'bnbadam' is not available on this machine"),
        (
            {"network": "test_vit"},
            "cannot build network 'test_vit' with .*: the image is smaller than one patch",
        ),
        ({"network": "test_convnext"}, "the network 'test_convnext' does not accept the 1x8x8 images of digits"),
    ],
)
def test_a_mistake_leaves_no_folder(short_settings, tmp_path, change, message):
    """A run that cannot start writes nothing."""
    with pytest.raises(SettingsError, match=message):
        train(replace(short_settings, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trains_a_network_of_timm(short_settings, tmp_path):
    """A timm architecture that accepts the images can be trained, saved and loaded."""
    train(replace(short_settings, network="test_resnet", epochs=1), tmp_path / "run")
    assert load_network(tmp_path / "run").architecture == "test_resnet"


def test_a_signal_network_learns_signals(tmp_path):
    """Three epochs bring the 1-D network far above chance, a sixth; the run can be loaded."""
    run = tmp_path / "run"
    result = train(TrainSettings(network="signal1d", data="signal", epochs=3, device="cpu"), run)
    assert result.test_accuracy > 0.85
    assert load_network(run).preprocessing.input_size == (1, 1, 128)


@pytest.mark.parametrize(("network", "data"), [("mlp", "signal"), ("localnet", "digits")])
def test_a_network_of_fixed_size_is_built_for_its_data(tmp_path, network, data):
    """The dataset determines the input size; loading the checkpoint restores it, in timm too."""
    run = tmp_path / "run"
    train(TrainSettings(network=network, data=data, epochs=1, device="cpu"), run)
    x = torch.randn(2, *load_dataset(data).preprocessing.input_size)
    timm_network = timm.create_model(f"local-dir:{run / 'best'}", pretrained=True).eval()
    assert torch.equal(timm_network(x), load_network(run).network(x))


def test_an_unsuitable_network_names_the_layer(tmp_path):
    """8x8 images are too small for LeNet-5's second convolution; the error names it."""
    with pytest.raises(SettingsError, match="layer 'c3' does not accept an input of size 2x2"):
        train(TrainSettings(network="lenet5", data="digits", device="cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_moving_average_of_the_weights(short_settings, tmp_path, monkeypatch):
    """After each step the average is decay * average + (1 - decay) * weights; the steps themselves do not change."""
    from zoo.training import epoch

    weights_by_step, original = [], epoch._step

    def step(context, x, targets, count):
        if not weights_by_step:
            weights_by_step.append(context.network.conv1.weight.detach().clone())
        loss = original(context, x, targets, count)
        weights_by_step.append(context.network.conv1.weight.detach().clone())
        return loss

    monkeypatch.setattr(epoch, "_step", step)
    settings = replace(short_settings, epochs=1)
    train(settings, tmp_path / "plain")
    last = weights_by_step[-1]
    weights_by_step.clear()
    train(replace(settings, ema_decay=0.9), tmp_path / "averaged")
    assert torch.equal(weights_by_step[-1], last)
    average = weights_by_step[0]
    for weight in weights_by_step[1:]:
        average = 0.9 * average + 0.1 * weight
    torch.testing.assert_close(load_network(tmp_path / "averaged" / "last").network.conv1.weight, average)
