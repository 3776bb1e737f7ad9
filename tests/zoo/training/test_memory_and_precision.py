"""Mixed precision, gradient accumulation and clipping, channels last, early stopping: what they change."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from zoo.errors import SettingsError
from zoo.settings import TrainSettings
from zoo.training.epoch import Step
from zoo.training.results import EpochMetrics
from zoo.training.resume import Position, load_state, save_state
from zoo.training.trainer import train


@pytest.fixture(scope="module")
def settings() -> TrainSettings:
    """Settings of one epoch of a network without BatchNorm."""
    return TrainSettings(network="mlp", data="digits", epochs=1, batch_size=64, lr=1e-3, max_shift_px=1, device="cpu")


def losses(settings, run):
    """Train; return the loss of each step."""
    events = []
    train(settings, run, events.append)
    return torch.tensor([event.loss for event in events if isinstance(event, Step)])


@pytest.fixture(scope="module")
def baseline(settings, tmp_path_factory):
    """Return the losses of the unchanged settings."""
    return losses(settings, tmp_path_factory.mktemp("runs") / "baseline")


def last_weights(run):
    """Load the weights of the last checkpoint by name."""
    return safetensors.torch.load_file(run / "last" / "model.safetensors")


@pytest.mark.parametrize("accumulate_steps", [4, 5])
def test_accumulation_does_not_change_the_losses(settings, baseline, tmp_path, accumulate_steps):
    """Accumulation steps give the same losses, whether or not their sizes are equal."""
    actual = losses(replace(settings, accumulate_steps=accumulate_steps), tmp_path / "run")
    torch.testing.assert_close(actual, baseline, rtol=2e-4, atol=1e-5)


def test_accumulation_respects_class_weights(settings, tmp_path):
    """An accumulation step counts by the class weights of its images, not by their number."""
    weighted = replace(settings, imbalance="weights", data="digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.training.context.class_weights", lambda targets, classes: torch.arange(1.0, classes + 1))
        expected = losses(weighted, tmp_path / "one_step")
        actual = losses(replace(weighted, accumulate_steps=4), tmp_path / "accumulated")
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=1e-5)


def test_images_are_mixed_before_accumulation(settings, tmp_path):
    """Images are mixed over the complete batch, so accumulation does not change the pairs."""
    mixing = replace(settings, mixup=0.3)
    expected = losses(mixing, tmp_path / "one_step")
    actual = losses(replace(mixing, accumulate_steps=4), tmp_path / "accumulated")
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=1e-5)


def test_accumulation_limits_the_batch_of_a_forward(settings, tmp_path, monkeypatch):
    """With four accumulation steps the network receives a quarter of the batch at a time."""
    from zoo.training import epoch

    sizes, original = [], epoch._step

    def step(context, x, targets, count):
        hook = context.trained_module.register_forward_pre_hook(lambda network, inputs: sizes.append(len(inputs[0])))
        loss = original(context, x, targets, count)
        hook.remove()
        return loss

    monkeypatch.setattr(epoch, "_step", step)
    train(replace(settings, accumulate_steps=4), tmp_path / "run")
    assert set(sizes) == {16}


def test_bf16_keeps_float32_weights(settings, baseline, tmp_path):
    """The losses differ a little; the saved weights are float32."""
    actual = losses(replace(settings, mixed_precision="bf16"), tmp_path / "run")
    assert not torch.equal(actual, baseline)
    torch.testing.assert_close(actual, baseline, rtol=0.05, atol=0.05)
    assert {value.dtype for value in last_weights(tmp_path / "run").values()} == {torch.float32}


def test_fp16_needs_a_gpu(settings, tmp_path):
    """fp16 on a CPU is refused, and nothing is written."""
    with pytest.raises(SettingsError, match="mixed_precision fp16 needs a GPU; on a CPU choose bf16 or no"):
        train(replace(settings, mixed_precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_clipping_limits_the_step(settings, tmp_path):
    """Plain gradient descent with a gradient norm of at most 0.01 moves by at most 0.01 times the learning rate."""
    descent = replace(settings, optimizer="momentum", weight_decay=0.0, lr=0.1, max_shift_px=0)
    weights, lengths = [], []

    def record(network):
        weights.append(torch.cat([value.detach().flatten().clone() for value in network.parameters()]))

    with pytest.MonkeyPatch.context() as patch:
        from zoo.training import epoch

        original = epoch._step

        def step(context, x, targets, count):
            record(context.network)
            loss = original(context, x, targets, count)
            record(context.network)
            lengths.append(float((weights[-1] - weights[-2]).norm()) / context.optimizer.param_groups[0]["lr"])
            return loss

        patch.setattr(epoch, "_step", step)
        train(replace(descent, clip_grad_norm=0.01), tmp_path / "clipped")
        clipped_lengths = lengths.copy()
        lengths.clear()
        train(descent, tmp_path / "unclipped")
    assert clipped_lengths[0] == pytest.approx(0.01, rel=0.01)
    assert lengths[0] > 0.1


@pytest.mark.parametrize("network", ["convnet4", "resnet8"])
def test_channels_last_computes_the_same(tmp_path, network):
    """Losses agree, and the saved weights have the same names."""
    settings = TrainSettings(network=network, data="digits", epochs=1, batch_size=128, lr=1e-3, device="cpu")
    expected = losses(settings, tmp_path / "default")
    actual = losses(replace(settings, channels_last=True), tmp_path / "channels_last")
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert last_weights(tmp_path / "channels_last").keys() == last_weights(tmp_path / "default").keys()


def test_channels_last_applies_to_weights_and_images(tmp_path, monkeypatch):
    """The input and the weights have the memory format channels_last in a step."""
    from zoo.training import epoch

    is_channels_last, original = [], epoch._step

    def step(context, x, targets, count):
        kernel = next(value for value in context.network.parameters() if value.dim() == 4 and min(value.shape[1:]) > 1)
        is_channels_last.append([tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, kernel)])
        return original(context, x, targets, count)

    monkeypatch.setattr(epoch, "_step", step)
    settings = TrainSettings(network="resnet8", data="digits", epochs=1, batch_size=256, device="cpu")
    train(replace(settings, channels_last=True), tmp_path / "run")
    assert is_channels_last[-1] == [True, True]


def test_patience_ends_a_run(settings, tmp_path, monkeypatch):
    """A patience of 2 ends the run after two epochs without improvement, and the best epoch is the result."""
    measured = [EpochMetrics(n, 1.0, 0.5, accuracy) for n, accuracy in enumerate((0.5, 0.9, 0.8, 0.9, 0.95), start=1)]
    monkeypatch.setattr("zoo.training.trainer._validate", lambda context, epoch, train_loss: measured[epoch - 1])
    result = train(replace(settings, epochs=5, patience=2), tmp_path / "run")
    assert result.best == measured[1]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert train(replace(settings, epochs=5, patience=3), tmp_path / "longer").best == measured[4]


class StopError(Exception):
    """Stops a run from its observer."""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_resumes_bit_for_bit(painted, tmp_path, workers):
    """A run stopped within an epoch, with all of these settings on, ends with the same weights."""
    settings = TrainSettings(
        network="resnet8",
        data=f"folder:{painted}",
        epochs=2,
        batch_size=8,
        input_size=(3, 16, 16),
        ema_decay=0.8,
        checkpoint_every_steps=2,
        workers=workers,
        device="cpu",
        mixed_precision="bf16",
        accumulate_steps=3,
        clip_grad_norm=0.5,
        channels_last=True,
        optimizer="lamb",
        patience=1,
    )
    events = []

    def stop(event):
        events.append(event)
        if len(events) == 4:
            raise StopError

    train(settings, tmp_path / "uninterrupted")
    with pytest.raises(StopError):
        train(settings, tmp_path / "run", stop)
    train(settings, tmp_path / "run", resume=True)
    for name in ("last", "best"):
        files = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("run", "uninterrupted")]
        assert files[0] == files[1]


def test_a_scaler_is_restored(tmp_path):
    """The state contains the scale, and the number of steps since it last changed."""
    network, scaler = torch.nn.Linear(2, 1), torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(network(torch.ones(1, 2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    save_state(tmp_path, network, optimizer, scaler, Position(), "key")
    assert json.loads((tmp_path / "state" / "state.json").read_text())["scaler"]["scale"] == 16.0
    fresh = torch.amp.GradScaler("cpu")
    load_state(tmp_path, network, optimizer, fresh, "key")
    assert fresh.state_dict() == scaler.state_dict()


def test_batches_too_small_for_accumulation(tmp_path):
    """Every accumulation step needs an image."""
    with pytest.raises(SettingsError, match="batch_size must be 8 or more"):
        TrainSettings(network="mlp", data="digits", batch_size=4, accumulate_steps=8)
