"""Pretrained weights; the tests write their own and download nothing."""

import socket
import time

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from zoo.catalog import create_model
from zoo.errors import CheckpointError, SettingsError
from zoo.runs.load import WeightsSource, load_network
from zoo.storage.hub import offline_fallback

NAMES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "resnet8"]


def trained(name, **options):
    """Return a network with weights that no other test has."""
    torch.manual_seed(11)
    return timm.create_model(name, **options).eval()


def save(network, folder, kind="safetensors"):
    """Write the network's weights to a file of that kind, and return its path."""
    file = folder / f"weights.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(network.state_dict(), file)
    else:
        torch.save(network.state_dict(), file)
    return file


def images(network, size=64, channels=3):
    """Return two random images, of the network's own size if that is fixed."""
    fixed = network.pretrained_cfg.get("fixed_input_size")
    size = network.pretrained_cfg["input_size"][-1] if fixed else size
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Disable network access, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


class TestFile:
    """A file of weights for a network by name (`pretrained_file`)."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("kind", ["safetensors", "pth"])
    def test_weights_are_loaded(self, name, kind, tmp_path):
        """The logits equal those of the saved network, and the network's config does not keep the weights."""
        network = trained(name)
        loaded = create_model(name, pretrained_file=save(network, tmp_path, kind)).eval()
        assert torch.equal(loaded(images(network)), network(images(network)))
        assert "state_dict" not in loaded.pretrained_cfg

    @pytest.mark.parametrize("name", NAMES)
    def test_number_of_classes_comes_from_the_file(self, name, tmp_path):
        """Without `num_classes` the network has as many classes as the file's classifier."""
        network = trained(name, num_classes=5)
        loaded = create_model(name, pretrained_file=save(network, tmp_path)).eval()
        assert loaded.num_classes == 5
        assert torch.equal(loaded(images(network)), network(images(network)))

    @pytest.mark.parametrize("name", NAMES)
    def test_another_number_of_classes_keeps_the_features(self, name, tmp_path):
        """Only the classifier is new."""
        network = trained(name)
        loaded = create_model(name, num_classes=3, pretrained_file=save(network, tmp_path)).eval()
        x = images(network)
        assert loaded(x).shape == (2, 3)
        assert torch.equal(loaded.forward_features(x), network.forward_features(x))

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet8"])
    def test_weights_are_adapted_to_grey_images(self, name, tmp_path):
        """A grey image is processed as a colour image of three equal channels: timm sums the first layer's weights."""
        network = trained(name)
        loaded = create_model(name, in_chans=1, pretrained_file=save(network, tmp_path)).eval()
        grey = images(network, channels=1)
        torch.testing.assert_close(loaded(grey), network(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)

    def test_weights_are_adapted_to_another_image_size(self, tmp_path):
        """A transformer's position embedding is resized."""
        file = save(trained("test_vit"), tmp_path)
        assert create_model("test_vit", img_size=(64, 96), pretrained_file=file)(torch.zeros(1, 3, 64, 96)).shape[1]

    @pytest.mark.parametrize("num_classes", [None, 5])
    def test_weights_of_another_network_are_rejected(self, tmp_path, num_classes):
        """Weights of another network are rejected, even where timm alone would silently load nothing."""
        file = save(trained("test_vit", num_classes=7), tmp_path)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors do not fit network 'test_resnet': .*"):
            create_model("test_resnet", num_classes=num_classes, pretrained_file=file)

    def test_a_missing_file_is_rejected(self, tmp_path):
        """The message names the file."""
        with pytest.raises(CheckpointError, match=r"there is no file .*nothing\.pth of pretrained weights"):
            create_model("test_resnet", pretrained_file=tmp_path / "nothing.pth")

    @pytest.mark.parametrize("kind", ["safetensors", "pth"])
    def test_a_damaged_file_is_rejected(self, tmp_path, kind):
        """The message is one sentence that names the file."""
        file = tmp_path / f"weights.{kind}"
        file.write_bytes(b"no weights at all")
        with pytest.raises(CheckpointError, match=rf"the weights .*weights\.{kind} cannot be read: "):
            create_model("test_resnet", pretrained_file=file)

    def test_a_pickle_runs_no_code(self, tmp_path):
        """A pickle of anything but tensors is rejected without executing it."""
        torch.save(nn.Linear(2, 2), tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="cannot be read: it holds Python objects, which could run code"):
            create_model("test_resnet", pretrained_file=tmp_path / "weights.pth")

    def test_a_file_without_tensors_is_rejected(self, tmp_path):
        """A saved dictionary of numbers is rejected, since it is not a state dict."""
        torch.save({"epoch": 3}, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="is not a state dict, which maps names to tensors"):
            create_model("test_resnet", pretrained_file=tmp_path / "weights.pth")

    def test_a_checkpoint_of_a_run_is_accepted(self, short_run):
        """A checkpoint of `zoonnx train` is accepted as a file of weights."""
        file = short_run / "best" / "model.safetensors"
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(create_model("convnet4", pretrained_file=file).eval()(x), load_network(short_run).network(x))


class TestFolder:
    """timm's source `local-dir:`."""

    def test_a_folder_of_timm_has_network_weights_and_licence(self, tmp_path):
        """A folder written by timm's save_for_hf is loaded, with name, classes and licence."""
        network = trained("test_resnet", num_classes=4)
        network.pretrained_cfg["license"] = "apache-2.0"
        timm.models.save_for_hf(network, tmp_path / "mine", safe_serialization=True)
        loaded = load_network(f"local-dir:{tmp_path / 'mine'}")
        assert torch.equal(loaded.network(images(network)), network(images(network)))
        assert (loaded.name, loaded.architecture, loaded.network.num_classes) == ("mine", "test_resnet", 4)
        assert loaded.weights == WeightsSource("pretrained", 0, licence="apache-2.0", url="local-dir:mine")

    def test_a_checkpoint_of_a_run_is_such_a_folder(self, short_run):
        """A checkpoint of `zoonnx train` has timm's format."""
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(
            load_network(f"local-dir:{short_run / 'best'}").network(x), load_network(short_run).network(x)
        )

    def test_a_missing_folder_is_rejected(self):
        """The message names the folder and does not mention network connections."""
        with pytest.raises(CheckpointError, match="of 'local-dir:/nowhere' cannot be loaded") as raised:
            create_model("local-dir:/nowhere")
        assert "network" not in str(raised.value)


class TestHub:
    """Weights from the hub or its cache."""

    def test_unpublished_weights_are_an_error(self):
        """Random weights never replace requested pretrained ones."""
        with pytest.raises(CheckpointError, match="no pretrained weights are published for 'convnet4'") as raised:
            create_model("convnet4", pretrained=True)
        assert "network" not in str(raised.value)

    @pytest.mark.usefixtures("offline")
    def test_an_unreachable_hub_is_an_error(self):
        """Without connection and cache the message names the architecture and the ways to pass weights."""
        problem = "weights of 'test_resnet' cannot be loaded: "
        advice = "without a network connection, fill the cache .*--pretrained-file"
        with pytest.raises(CheckpointError, match=f"{problem}.*{advice}"):
            create_model("test_resnet", pretrained=True)

    @pytest.mark.usefixtures("offline")
    def test_cached_weights_need_no_connection(self, tmp_path):
        """A cache in the format of the hub's client is sufficient; licence and source are known."""
        network = trained("test_resnet")
        repository = tmp_path / "models--timm--test_resnet.r160_in1k"
        snapshot = repository / "snapshots" / "0123456789"
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123456789")
        safetensors.torch.save_file(network.state_dict(), snapshot / "model.safetensors")
        loaded = load_network("test_resnet", pretrained=True)
        assert torch.equal(loaded.network(images(network)), network(images(network)))
        assert (loaded.weights.kind, loaded.weights.url) == ("pretrained", "hf-hub:timm/test_resnet.r160_in1k")
        assert loaded.weights.licence == timm.get_pretrained_cfg("test_resnet").license != ""

    def test_a_refused_connection_fails_soon(self, monkeypatch, tmp_path):
        """A hub that refuses connections is tried once, not with retries of half a minute."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        monkeypatch.setattr("urllib.request.getproxies", dict)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        started = time.perf_counter()
        with pytest.raises(CheckpointError, match="the hub cannot be reached, and its cache"):
            create_model("test_resnet", pretrained=True)
        assert time.perf_counter() - started < 5
        assert huggingface_hub.constants.HF_HUB_OFFLINE is False

    @pytest.mark.parametrize("user_offline", [False, True])
    def test_a_reachable_hub_is_used(self, monkeypatch, user_offline):
        """offline_fallback keeps the user's HF_HUB_OFFLINE; its timeout is set only inside the block."""
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", user_offline)
        with socket.create_server(("127.0.0.1", 0)) as server:
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setattr("urllib.request.getproxies", dict)
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
            with offline_fallback():
                inside = (huggingface_hub.constants.HF_HUB_OFFLINE, socket.getdefaulttimeout())
        assert inside == (user_offline, 20.0)
        assert socket.getdefaulttimeout() is None


class TestWeightsSource:
    """The recorded origin of pretrained weights."""

    def test_a_file_is_recorded_with_its_hash(self, tmp_path):
        """The origin of a file has its name and hash but not its folder; the licence is unknown."""
        file = save(trained("test_resnet"), tmp_path)
        loaded = load_network("test_resnet", pretrained_file=file)
        assert loaded.weights.kind == "pretrained"
        assert loaded.weights.licence == ""
        assert loaded.weights.url.startswith("file:weights.safetensors#sha256=")
        assert len(loaded.weights.url.split("=")[1]) == 64
        assert not loaded.network.training

    def test_a_run_has_its_own_weights(self, short_run, tmp_path):
        """A run as the network and a file of weights together are an error."""
        with pytest.raises(SettingsError, match="is a run, which has its own weights"):
            load_network(short_run, pretrained_file=tmp_path / "weights.pth")
