"""16 bits, batches in pieces, cut gradients, channels last, early ends: what they change, and what they do not."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from zoo.errors import SettingsError
from zoo.settings import TrainSettings
from zoo.training.resume import Position, load_state, save_state
from zoo.training.trainer import EpochMetrics, Step, train


@pytest.fixture(scope="module")
def settings() -> TrainSettings:
    """One epoch of a network without BatchNorm."""
    return TrainSettings(network="mlp", data="digits", epochs=1, batch_size=64, lr=1e-3, max_shift_px=1, device="cpu")


def losses(settings, run):
    """The loss of each step."""
    seen = []
    train(settings, run, seen.append)
    return torch.tensor([event.loss for event in seen if isinstance(event, Step)])


@pytest.fixture(scope="module")
def plain(settings, tmp_path_factory):
    """The losses with nothing changed."""
    return losses(settings, tmp_path_factory.mktemp("runs") / "plain")


def last_weights(run):
    """By name."""
    return safetensors.torch.load_file(run / "last" / "model.safetensors")


@pytest.mark.parametrize("pieces", [4, 5])
def test_pieces_of_a_batch_make_the_same_step(settings, plain, tmp_path, pieces):
    """Of equal size or not."""
    found = losses(replace(settings, accumulate_steps=pieces), tmp_path / "run")
    torch.testing.assert_close(found, plain, rtol=2e-4, atol=1e-5)


def test_rare_classes_weigh_the_same_in_pieces(settings, tmp_path):
    """A piece counts by the weights of its images, not by their number."""
    weighed = replace(settings, imbalance="weights", data="digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.training.context.class_weights", lambda targets, classes: torch.arange(1.0, classes + 1))
        whole = losses(weighed, tmp_path / "whole")
        pieces = losses(replace(weighed, accumulate_steps=4), tmp_path / "pieces")
    torch.testing.assert_close(pieces, whole, rtol=2e-4, atol=1e-5)


def test_images_are_mixed_before_the_batch_is_cut(settings, tmp_path):
    """So that the partners are the same."""
    mixing = replace(settings, mixup=0.3)
    whole, pieces = losses(mixing, tmp_path / "whole"), losses(replace(mixing, accumulate_steps=4), tmp_path / "pieces")
    torch.testing.assert_close(pieces, whole, rtol=2e-4, atol=1e-5)


def test_pieces_reach_the_net_one_by_one(settings, tmp_path, monkeypatch):
    """A quarter of the batch at a time."""
    from zoo.training import epoch

    sizes, original = [], epoch._step

    def step(session, x, targets, count):
        hook = session.network.register_forward_pre_hook(lambda network, inputs: sizes.append(len(inputs[0])))
        loss = original(session, x, targets, count)
        hook.remove()
        return loss

    monkeypatch.setattr(epoch, "_step", step)
    train(replace(settings, accumulate_steps=4), tmp_path / "run")
    assert set(sizes) == {16}


def test_bf16_computes_in_16_bits_and_keeps_weights_in_32(settings, plain, tmp_path):
    """The losses differ, though little; the file holds float32."""
    found = losses(replace(settings, mixed_precision="bf16"), tmp_path / "run")
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05)
    assert {value.dtype for value in last_weights(tmp_path / "run").values()} == {torch.float32}


def test_fp16_needs_a_gpu(settings, tmp_path):
    """Which a CPU is not; nothing is written."""
    with pytest.raises(SettingsError, match="mixed_precision fp16 needs a GPU; on a CPU choose bf16 or no"):
        train(replace(settings, mixed_precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cut_gradient_moves_as_far_as_it_may(settings, tmp_path):
    """Plain descent with gradients of length 0.01 at most takes steps of at most the rate times 0.01."""
    descent = replace(settings, optimizer="momentum", weight_decay=0.0, lr=0.1, max_shift_px=0)
    weights, lengths = [], []

    def note(network):
        weights.append(torch.cat([value.detach().flatten().clone() for value in network.parameters()]))

    with pytest.MonkeyPatch.context() as patch:
        from zoo.training import epoch

        original = epoch._step

        def step(session, x, targets, count):
            note(session.whole)
            loss = original(session, x, targets, count)
            note(session.whole)
            lengths.append(float((weights[-1] - weights[-2]).norm()) / session.optimizer.param_groups[0]["lr"])
            return loss

        patch.setattr(epoch, "_step", step)
        train(replace(descent, clip_grad_norm=0.01), tmp_path / "cut")
        cut = lengths.copy()
        lengths.clear()
        train(descent, tmp_path / "free")
    assert cut[0] == pytest.approx(0.01, rel=0.01)
    assert lengths[0] > 0.1


@pytest.mark.parametrize("network", ["convnet4", "resnet8"])
def test_channels_last_computes_the_same(tmp_path, network):
    """In another layout, that the weights' file does not show."""
    settings = TrainSettings(network=network, data="digits", epochs=1, batch_size=128, lr=1e-3, device="cpu")
    usual, last = losses(settings, tmp_path / "usual"), losses(replace(settings, channels_last=True), tmp_path / "last")
    torch.testing.assert_close(last, usual, rtol=1e-3, atol=1e-4)
    assert last_weights(tmp_path / "last").keys() == last_weights(tmp_path / "usual").keys()


def test_channels_last_reaches_the_net(tmp_path, monkeypatch):
    """Weights and images are laid out so."""
    from zoo.training import epoch

    seen, original = [], epoch._step

    def step(session, x, targets, count):
        kernel = next(value for value in session.whole.parameters() if value.dim() == 4 and min(value.shape[1:]) > 1)
        seen.append([each.is_contiguous(memory_format=torch.channels_last) for each in (x, kernel)])
        return original(session, x, targets, count)

    monkeypatch.setattr(epoch, "_step", step)
    settings = TrainSettings(network="resnet8", data="digits", epochs=1, batch_size=256, device="cpu")
    train(replace(settings, channels_last=True), tmp_path / "run")
    assert seen[-1] == [True, True]


def test_patience_ends_a_run(settings, tmp_path, monkeypatch):
    """After two epochs that are no better than the best one, and the best one is what counts."""
    measured = [EpochMetrics(n, 1.0, 0.5, accuracy) for n, accuracy in enumerate((0.5, 0.9, 0.8, 0.9, 0.95), start=1)]
    monkeypatch.setattr("zoo.training.trainer._validate", lambda session, epoch, train_loss: measured[epoch - 1])
    result = train(replace(settings, epochs=5, patience=2), tmp_path / "run")
    assert result.best == measured[1]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert train(replace(settings, epochs=5, patience=3), tmp_path / "longer").best == measured[4]


class StopError(Exception):
    """Whatever ends a process."""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_bit_by_bit(painted, tmp_path, workers):
    """In the middle of an epoch, with every mechanism on."""
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
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) == 4:
            raise StopError

    train(settings, tmp_path / "whole")
    with pytest.raises(StopError):
        train(settings, tmp_path / "run", stop)
    train(settings, tmp_path / "run", resume=True)
    for name in ("last", "best"):
        files = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("run", "whole")]
        assert files[0] == files[1]


def test_a_scaler_goes_on_where_it_was(tmp_path):
    """Its scale, and how long it has held."""
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


def test_batches_too_small_for_their_pieces(tmp_path):
    """Every piece needs an image."""
    with pytest.raises(SettingsError, match="batch_size must be 8 or more"):
        TrainSettings(network="mlp", data="digits", batch_size=4, accumulate_steps=8)
