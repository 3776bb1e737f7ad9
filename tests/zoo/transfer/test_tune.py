"""Tuning of backbones with new heads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from zoo.catalog import create_model
from zoo.data.registry import find_data
from zoo.errors import CheckpointError, SettingsError
from zoo.runs.load import load_network
from zoo.settings import Transfer
from zoo.training.build import build_network
from zoo.training.optim import make_optimizer
from zoo.training.trainer import Step, train
from zoo.transfer.freeze import freeze_for_epoch, train_unfrozen
from zoo.transfer.heads import HeadedNetwork, attach_head


@pytest.fixture(scope="session")
def settings(tune_settings):
    """Two short epochs of test_resnet with a linear head."""
    return tune_settings


def changed(settings, **transfer):
    """Return the settings with other transfer options."""
    return replace(settings, transfer=replace(settings.transfer, **transfer))


@pytest.fixture(scope="session")
def tuned(settings, tmp_path_factory) -> Path:
    """Return a finished run of `settings`, which tests only read."""
    run = tmp_path_factory.mktemp("runs") / "tuned"
    train(settings, run)
    return run


def changed_tensors(run, weights_file):
    """Return the names of the backbone's tensors, statistics included, that a run changed."""
    before = safetensors.torch.load_file(weights_file)
    after = load_network(run / "last").network.backbone.state_dict()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_a_probe_does_not_change_the_backbone(settings, weights_file, tmp_path):
    """Weights and BatchNorm's statistics are unchanged, and the loss decreases."""
    losses = []
    probe = replace(changed(settings, schedule="probe"), lr=1e-2, epochs=4)
    train(probe, tmp_path / "run", lambda event: losses.append(event.loss) if isinstance(event, Step) else None)
    assert changed_tensors(tmp_path / "run", weights_file) == set()
    assert sum(losses[-4:]) < sum(losses[:4])


def test_head_then_all_changes_the_whole_backbone(tuned, weights_file):
    """At the end every tensor of the backbone differs; its classifier is gone."""
    names = {name for name in safetensors.torch.load_file(weights_file) if not name.startswith("fc.")}
    assert changed_tensors(tuned, weights_file) == names


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("probe", [0] * 10), ("head-then-all", [0, 0] + [5] * 8), ("gradual", [0, 0, 1, 1, 2, 3, 3, 4, 4, 5])],
)
def test_schedules_unfreeze_from_the_last_stage(schedule, expected):
    """In each of ten epochs the last stages are trained; only frozen modules are in eval mode."""
    network = attach_head(create_model("test_resnet"), "linear", num_classes=2)
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    for epoch, count in enumerate(expected, start=1):
        freeze_for_epoch(network, schedule, epoch, epochs=10)
        train_unfrozen(network)
        trained = [name for name in stages if next(network.backbone.get_submodule(name).parameters()).requires_grad]
        assert trained == stages[len(stages) - count :]
        assert network.backbone.bn1.training == ("conv1" in trained)
        assert network.head.training
        assert network.backbone.layer4.training == ("layer4" in trained)


def test_layers_have_their_own_learning_rates(settings):
    """The head has the full rate, the first layer the lowest."""
    network, _, _ = build_network(settings, find_data(settings.data))
    optimizer = make_optimizer(network, settings)
    scale = {id(p): group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    assert {scale[id(p)] for p in network.head.parameters()} == {1.0}
    rates = [
        scale[id(network.backbone.get_submodule(f"layer{n}").get_parameter("0.conv1.weight"))] for n in (1, 2, 3, 4)
    ]
    assert rates == sorted(set(rates))
    assert scale[id(network.backbone.conv1[0].weight)] < rates[0]


@pytest.mark.parametrize("head", ["linear", "mlp", "conv1x1", "attention", "flat"])
def test_a_tuned_network_is_loaded(settings, tmp_path, head):
    """The loaded network has the saved weights, labels and the origin of the backbone's weights."""
    run = tmp_path / "run"
    train(replace(changed(settings, head=head), epochs=1), run)
    loaded = load_network(run)
    assert isinstance(loaded.network, HeadedNetwork)
    assert (loaded.architecture, loaded.labels) == ("test_resnet", ("blue", "red"))
    assert loaded.weights.url.startswith("file:resnet.safetensors#sha256=")
    saved = safetensors.torch.load_file(run / "best" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in loaded.network.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "size"), [("test_vit", (3, 32, 32)), ("test_convnext", (3, 64, 64)), ("convnet4", (1, 16, 16))]
)
def test_other_backbones_are_tuned(settings, tmp_path, backbone, size):
    """A transformer, a network with channels last and one of the catalog are tuned stage by stage."""
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(create_model(backbone, img_size=size[1:]).state_dict(), file)
    transfer_settings = changed(settings, pretrained_file=str(file), schedule="gradual")
    result = train(replace(transfer_settings, network=backbone, input_size=size), tmp_path / "run")
    assert load_network(tmp_path / "run").weights.metrics["test_accuracy"] == result.test_accuracy


def test_a_run_can_be_the_backbone(tuned, settings, tmp_path):
    """Tuning a tuned run replaces its head, and keeps its backbone and the origin of its weights."""
    again = replace(changed(settings, pretrained_file=None, head="mlp", schedule="probe"), network=str(tuned), epochs=1)
    train(again, tmp_path / "again")
    first, second = load_network(tuned), load_network(tmp_path / "again")
    assert second.weights.url == first.weights.url
    for name, value in first.network.backbone.state_dict().items():
        assert torch.equal(value, second.network.backbone.state_dict()[name])


def test_the_licence_of_the_backbone_is_kept(settings, tmp_path, monkeypatch):
    """The run has the licence and origin from origin_of."""
    monkeypatch.setattr(
        "zoo.training.build.origin_of", lambda network, file: type("O", (), {"licence": "mit", "url": "hf-hub:x"})
    )
    train(replace(settings, epochs=1), tmp_path / "run")
    weights = load_network(tmp_path / "run").weights
    assert (weights.kind, weights.licence, weights.url) == ("trained", "mit", "hf-hub:x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "test_vit"}, "do not fit network 'test_vit'"),
        ({"input_size": (3, 32, 32), "data": "digits"}, r"digits have the size \(1, 8, 8\)"),
    ],
)
def test_rejected_settings_write_nothing(settings, tmp_path, change, message):
    """Weights of another network and images of another size are errors before the run folder exists."""
    with pytest.raises((CheckpointError, SettingsError), match=message):
        train(replace(settings, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("convnet4", "layer 'pool' does not accept an input of size 1x128: .* does not fit a length of 1"),
        ("mlp", "mlp' does not accept images of 1x1x128"),
    ],
)
def test_a_run_of_another_size_writes_nothing(short_settings, tmp_path, network, message):
    """Tuning a network for square images on signals is an error before the run folder exists."""
    first = tmp_path / network
    train(replace(short_settings, network=network, epochs=1), first)
    again = replace(short_settings, network=str(first), data="signal", max_shift_px=0, transfer=Transfer())
    with pytest.raises(SettingsError, match=message):
        train(again, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_run_has_its_own_weights(tuned, settings, tmp_path):
    """A weights file is rejected if the backbone is a run, since it would be ignored."""
    with pytest.raises(SettingsError, match="is a run, which has its own weights"):
        train(replace(settings, network=str(tuned)), tmp_path / "run")


def test_a_backbone_of_one_layer_has_the_full_learning_rate(settings, caplog):
    """A cut may leave one layer, for which timm's warning about layer decay is suppressed."""
    network = attach_head(create_model("convnet4"), "flat", num_classes=2, cut="act1")
    groups = make_optimizer(network, replace(settings, layer_decay=0.5)).param_groups
    assert {group.get("lr_scale", 1.0) for group in groups} == {1.0}
    assert caplog.messages == []


def test_tune_from_the_command_line(command, settings, weights_file, tmp_path):
    """Every option is in the run's settings, and eval accepts the run."""
    options = {
        "--head": "mlp",
        "--schedule": "gradual",
        "--pretrained-file": weights_file,
        "--epochs": 1,
        "--batch-size": 8,
        "--lr": 0.003,
        "--weight-decay": 0.1,
        "--layer-decay": 0.5,
        "--input-size": "3,32,32",
        "--workers": 0,
        "--device": "cpu",
    }
    run, arguments = tmp_path / "run", [argument for option in options.items() for argument in option]
    assert command("tune", "test_resnet", "--data", settings.data, "--out", run, *arguments).status == 0
    written = json.loads((run / "config.json").read_text())["settings"]
    assert written["transfer"] == {
        "head": "mlp",
        "schedule": "gradual",
        "cached": False,
        "pretrained_file": str(weights_file),
        "head_init": "random",
        "cut_after": None,
    }
    assert [written[name] for name in ("lr", "weight_decay", "layer_decay")] == [0.003, 0.1, 0.5]
    assert json.loads(command("eval", run, "--data", settings.data, "--json").out)["images"] == 4
