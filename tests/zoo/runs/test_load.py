"""Loading networks from runs and by name."""

import shutil

import pytest
import torch

from zoo.errors import CheckpointError, SettingsError, UnknownNetworkError
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import WeightsSource, load_network
from zoo.storage.atomic_io import backup_path


def test_loads_a_run(short_run, digits):
    """The best checkpoint is loaded, with its dataset and metrics."""
    loaded = load_network(short_run)
    assert (loaded.name, loaded.architecture, loaded.labels) == ("short", "convnet4", digits.labels)
    assert loaded.preprocessing == digits.preprocessing == Preprocessing.from_network(loaded.network)
    weights = loaded.weights
    assert (weights.kind, weights.dataset, weights.seed, weights.licence, weights.url) == (
        "trained",
        "digits",
        0,
        "",
        "",
    )
    assert weights.metrics.keys() >= {"epoch", "val_accuracy", "val_loss", "test_accuracy", "test_loss"}


@pytest.mark.parametrize("trained", [True, False])
def test_a_loaded_network_is_ready(short_run, trained):
    """A loaded network is in eval mode, float32, on the CPU."""
    network = load_network(str(short_run) if trained else "convnet4").network
    assert not any(module.training for module in network.modules())
    assert {(p.dtype, p.device.type) for p in network.parameters()} == {(torch.float32, "cpu")}


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_loads_one_checkpoint_of_a_run(short_run, checkpoint):
    """RUN/best and RUN/last can be loaded; the name is that of the run."""
    loaded = load_network(short_run / checkpoint)
    assert loaded.name == "short"
    assert loaded.weights.metrics["epoch"] == 2


def test_loads_a_run_after_a_crash(short_run, tmp_path):
    """A checkpoint is found if the process died while replacing it."""
    run = shutil.copytree(short_run, tmp_path / "run")
    (run / "best").rename(backup_path(run / "best"))
    assert load_network(run).weights == load_network(short_run).weights
    assert load_network(run / "best").weights == load_network(short_run).weights


def test_a_name_gives_random_weights():
    """A network by name has random weights, no labels and no metrics."""
    loaded = load_network("convnet4", seed=3)
    assert (loaded.name, loaded.architecture, loaded.labels) == ("convnet4", "convnet4", ())
    assert loaded.weights == WeightsSource("random", seed=3)


def test_random_weights_come_from_the_seed():
    """The same seed gives the same weights whatever was drawn before, and the generator is restored."""
    torch.manual_seed(1)
    first = load_network("convnet4", seed=3).network.conv1.weight
    drawn = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), drawn)
    assert torch.equal(load_network("convnet4", seed=3).network.conv1.weight, first)
    assert not torch.equal(load_network("convnet4", seed=4).network.conv1.weight, first)


def test_a_network_of_timm_has_its_own_preprocessing():
    """The preprocessing is that of timm's config, also for a name with a tag."""
    loaded = load_network("test_resnet.r160_in1k")
    assert (loaded.architecture, loaded.labels) == ("test_resnet", ())
    assert loaded.preprocessing.input_size == (3, 160, 160)


def test_a_missing_run_is_explained(tmp_path):
    """The error names the folder and describes a run's layout."""
    with pytest.raises(CheckpointError, match=r"there is no folder .*/nowhere; a run holds config\.json"):
        load_network(str(tmp_path / "nowhere"))


def test_a_folder_that_is_no_run_is_explained(tmp_path):
    """The error describes a run's layout for any other folder too."""
    with pytest.raises(CheckpointError, match=r"there is no .*config\.json; a run holds"):
        load_network(tmp_path)


def test_an_unknown_name_is_explained():
    """The error for a name that is neither a folder nor a network suggests similar names."""
    with pytest.raises(UnknownNetworkError, match="did you mean 'convnet4'"):
        load_network("convnet44")


def test_a_seed_out_of_range_is_refused():
    """The range is that of the settings."""
    with pytest.raises(SettingsError, match="seed must be at least 0"):
        load_network("convnet4", seed=-1)
