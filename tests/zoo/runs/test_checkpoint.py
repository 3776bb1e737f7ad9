"""Runs and checkpoints on disk."""

import json
import shutil

import pytest
import safetensors.torch
import timm
import torch

from zoo.catalog import create_model
from zoo.errors import CheckpointError
from zoo.runs.checkpoint import read_checkpoint, read_settings, save_checkpoint, start_run

LABELS = tuple("abcdefghij")


@pytest.fixture
def network():
    """Return a network to save."""
    return create_model("convnet4").eval()


@pytest.fixture
def saved(network, tmp_path):
    """Save a checkpoint of `network`; return its folder."""
    save_checkpoint(tmp_path / "best", network, LABELS, {"val_accuracy": 0.5})
    return tmp_path / "best"


def change_json(file, **change):
    """Change values of a JSON file; None removes one."""
    values = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def change_weights(folder, change):
    """Modify the tensors of a checkpoint by `change`."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_checkpoint_round_trip(network, saved):
    """Every tensor is restored bit for bit, with labels and metrics."""
    checkpoint, other = read_checkpoint(saved), create_model("convnet4")
    checkpoint.load_into(other)
    assert (checkpoint.architecture, checkpoint.labels) == ("convnet4", LABELS)
    assert checkpoint.metrics == {"val_accuracy": 0.5}
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_timm_loads_a_checkpoint_folder(network, saved):
    """timm's local-dir source reads a checkpoint."""
    loaded = timm.create_model(f"local-dir:{saved}", pretrained=True).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), network(x))


def test_timm_reads_channels_and_classes(tmp_path):
    """timm restores numbers of channels and classes that differ from the architecture's own."""
    network = create_model("test_resnet", num_classes=4, in_chans=2).eval()
    save_checkpoint(tmp_path / "c", network, LABELS[:4], {})
    loaded = timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True).eval()
    x = torch.randn(1, 2, 64, 64)
    assert torch.equal(loaded(x), network(x))


def test_failed_save_leaves_the_old_checkpoint(network, saved, monkeypatch):
    """If the disk fills up during a save, only the new checkpoint is lost."""
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    monkeypatch.setattr("zoo.storage.atomic_io._flush", full_disk)
    with torch.no_grad():
        network.conv1.weight.zero_()
    with pytest.raises(OSError, match="full"):
        save_checkpoint(saved, network, LABELS, {"val_accuracy": 0.9})
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["best"]


def full_disk(_):
    """Fail as on a full disk."""
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv3.weight"), r"lacks the network's tensor 'conv3.weight'"),
        (
            lambda t: t.update({"conv9.weight": torch.zeros(1)}),
            r"contains the tensor 'conv9.weight', which the network does not have",
        ),
        (
            lambda t: t.update({"conv2.weight": torch.zeros(32, 16, 3, 3)}),
            r"the tensor 'conv2.weight' has shape \(32, 16, 3, 3\); the network's has \(32, 32, 3, 3\)",
        ),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_weights_of_another_network_are_refused(network, saved, change, message):
    """The error names the first tensor that does not match."""
    change_weights(saved, change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved).load_into(network)


def test_damaged_weights_are_refused(network, saved):
    """The error names a truncated file."""
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"the weights .*model\.safetensors cannot be read"):
        read_checkpoint(saved).load_into(network)


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_incomplete_checkpoint_is_refused(saved, name):
    """The error names the missing file and describes a run's layout."""
    (saved / name).unlink()
    with pytest.raises(
        CheckpointError, match=rf"there is no .*{name}; a run holds config\.json, metrics\.jsonl, last/"
    ):
        read_checkpoint(saved)


def test_config_without_labels_is_refused(saved):
    """The error names the key that a folder written by timm lacks."""
    change_json(saved / "config.json", label_names=None)
    with pytest.raises(CheckpointError, match="lacks 'label_names'"):
        read_checkpoint(saved)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[]", "should contain a JSON object")])
def test_broken_json_is_refused(saved, text, message):
    """The error names the file that is not a JSON object."""
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.json .*{message}|{message}"):
        read_checkpoint(saved)


def test_a_run_starts_in_an_empty_folder(tmp_path, short_settings):
    """An existing empty folder is accepted."""
    start_run(tmp_path, short_settings)
    assert read_settings(tmp_path) == short_settings


def test_a_run_is_never_overwritten(tmp_path, short_settings):
    """A folder that contains a run is refused."""
    start_run(tmp_path / "run", short_settings)
    with pytest.raises(CheckpointError, match="already holds a run; nothing was overwritten"):
        start_run(tmp_path / "run", short_settings)


def test_a_run_does_not_start_among_other_files(tmp_path, short_settings):
    """A folder with other files is refused and not changed."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match="already exists and is not empty"):
        start_run(tmp_path, short_settings)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_a_later_version_is_refused(short_run, tmp_path):
    """An unknown schema version is an error."""
    run = shutil.copytree(short_run, tmp_path / "run")
    change_json(run / "config.json", schema_version=99)
    with pytest.raises(CheckpointError, match="should have schema_version 1; it has 99"):
        read_settings(run)


def test_a_run_contains_no_pickles(short_run):
    """A run consists of JSON, safetensors, report.html and README.md."""
    kinds = {file.suffix for file in short_run.rglob("*") if file.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ".html", ".md"}
