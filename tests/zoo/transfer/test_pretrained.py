"""Pretrained weights, on weights made here: nothing is downloaded."""

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
    """A network with weights that no other test draws."""
    torch.manual_seed(11)
    return timm.create_model(name, **options).eval()


def saved(network, folder, kind="safetensors"):
    """The network's weights in a file of that kind."""
    file = folder / f"weights.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(network.state_dict(), file)
    else:
        torch.save(network.state_dict(), file)
    return file


def images(network, size=64, channels=3):
    """Two random images, of the network's own size where it fixes one."""
    fixed = network.pretrained_cfg.get("fixed_input_size")
    size = network.pretrained_cfg["input_size"][-1] if fixed else size
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


class TestFile:
    """A file of weights for a network by name."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("kind", ["safetensors", "pth"])
    def test_gives_the_net_its_weights(self, name, kind, tmp_path):
        """The same logits as the network that was saved, and nothing of the file stays in the network's config."""
        network = trained(name)
        loaded = create_model(name, pretrained_file=saved(network, tmp_path, kind)).eval()
        assert torch.equal(loaded(images(network)), network(images(network)))
        assert "state_dict" not in loaded.pretrained_cfg

    @pytest.mark.parametrize("name", NAMES)
    def test_may_have_classes_of_its_own(self, name, tmp_path):
        """As many classes as the file's classifier has, without being told."""
        network = trained(name, num_classes=5)
        loaded = create_model(name, pretrained_file=saved(network, tmp_path)).eval()
        assert loaded.num_classes == 5
        assert torch.equal(loaded(images(network)), network(images(network)))

    @pytest.mark.parametrize("name", NAMES)
    def test_keeps_the_features_for_other_classes(self, name, tmp_path):
        """Asked for other classes, only the classifier is new."""
        network = trained(name)
        loaded = create_model(name, num_classes=3, pretrained_file=saved(network, tmp_path)).eval()
        x = images(network)
        assert loaded(x).shape == (2, 3)
        assert torch.equal(loaded.forward_features(x), network.forward_features(x))

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet8"])
    def test_serves_grey_images(self, name, tmp_path):
        """A grey image is a colour image of three equal channels: timm sums the first layer over the channels."""
        network = trained(name)
        loaded = create_model(name, in_chans=1, pretrained_file=saved(network, tmp_path)).eval()
        grey = images(network, channels=1)
        torch.testing.assert_close(loaded(grey), network(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)

    def test_serves_another_image_size(self, tmp_path):
        """A transformer's position embedding is resized."""
        file = saved(trained("test_vit"), tmp_path)
        assert create_model("test_vit", img_size=(64, 96), pretrained_file=file)(torch.zeros(1, 3, 64, 96)).shape[1]

    @pytest.mark.parametrize("num_classes", [None, 5])
    def test_of_another_net_is_refused(self, tmp_path, num_classes):
        """Also where timm alone would load nothing and say nothing."""
        file = saved(trained("test_vit", num_classes=7), tmp_path)
        with pytest.raises(
            CheckpointError, match=r"weights\.safetensors are not those of the network 'test_resnet': .*"
        ):
            create_model("test_resnet", num_classes=num_classes, pretrained_file=file)

    def test_that_is_not_there_is_refused(self, tmp_path):
        """The message names the file."""
        with pytest.raises(CheckpointError, match=r"there is no file .*nothing\.pth of pretrained weights"):
            create_model("test_resnet", pretrained_file=tmp_path / "nothing.pth")

    @pytest.mark.parametrize("kind", ["safetensors", "pth"])
    def test_that_is_damaged_is_refused(self, tmp_path, kind):
        """In one sentence."""
        file = tmp_path / f"weights.{kind}"
        file.write_bytes(b"no weights at all")
        with pytest.raises(CheckpointError, match=rf"the weights .*weights\.{kind} cannot be read: "):
            create_model("test_resnet", pretrained_file=file)

    def test_runs_no_code(self, tmp_path):
        """A pickle of anything but tensors is refused, not executed."""
        torch.save(nn.Linear(2, 2), tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="cannot be read: it holds Python objects, which could run code"):
            create_model("test_resnet", pretrained_file=tmp_path / "weights.pth")

    def test_of_something_else_is_refused(self, tmp_path):
        """A saved list is no state dict."""
        torch.save({"epoch": 3}, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="holds no state dict: it should map names to tensors"):
            create_model("test_resnet", pretrained_file=tmp_path / "weights.pth")

    def test_of_a_run_fits_its_net(self, short_run):
        """A checkpoint of ours is such a file too."""
        file = short_run / "best" / "model.safetensors"
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(create_model("convnet4", pretrained_file=file).eval()(x), load_network(short_run).network(x))


class TestFolder:
    """timm's local-dir: source."""

    def test_of_timm_brings_net_weights_and_licence(self, tmp_path):
        """What timm saved with save_for_hf, timm's own function, is loaded with its preprocessing."""
        network = trained("test_resnet", num_classes=4)
        network.pretrained_cfg["license"] = "apache-2.0"
        timm.models.save_for_hf(network, tmp_path / "mine", safe_serialization=True)
        loaded = load_network(f"local-dir:{tmp_path / 'mine'}")
        assert torch.equal(loaded.network(images(network)), network(images(network)))
        assert (loaded.name, loaded.architecture, loaded.network.num_classes) == ("mine", "test_resnet", 4)
        assert loaded.weights == WeightsSource("pretrained", 0, licence="apache-2.0", url="local-dir:mine")

    def test_of_a_run_is_one_too(self, short_run):
        """A checkpoint of ours is in timm's format."""
        x = torch.randn(2, 1, 8, 8)
        assert torch.equal(
            load_network(f"local-dir:{short_run / 'best'}").network(x), load_network(short_run).network(x)
        )

    def test_that_is_not_there_is_refused(self):
        """The message names it, and says nothing of networks."""
        with pytest.raises(CheckpointError, match="of 'local-dir:/nowhere' cannot be loaded") as caught:
            create_model("local-dir:/nowhere")
        assert "network" not in str(caught.value)


class TestHub:
    """Weights that would be downloaded."""

    def test_that_do_not_exist_are_an_error(self):
        """Nobody gets random weights who asked for trained ones."""
        with pytest.raises(CheckpointError, match="nobody publishes pretrained weights of 'convnet4'") as caught:
            create_model("convnet4", pretrained=True)
        assert "network" not in str(caught.value)

    @pytest.mark.usefixtures("offline")
    def test_that_cannot_be_fetched_are_an_error(self):
        """Without a network and a cache the message names the network and says what to do."""
        expected = "weights of 'test_resnet' cannot be loaded: .*without a network, fill the cache .*--pretrained-file"
        with pytest.raises(CheckpointError, match=expected):
            create_model("test_resnet", pretrained=True)

    @pytest.mark.usefixtures("offline")
    def test_in_the_cache_need_no_network(self, tmp_path):
        """A cache as the hub's own client writes it is enough; licence and source are known."""
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

    def test_that_answer_nothing_are_given_up_soon(self, monkeypatch, tmp_path):
        """A hub that refuses connections is asked once, not with retries of half a minute."""
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

    @pytest.mark.parametrize("switched_off", [False, True])
    def test_a_hub_that_answers_is_asked(self, monkeypatch, switched_off):
        """Only an unreachable hub, or the user, turns the network off, and only inside the block."""
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", switched_off)
        with socket.create_server(("127.0.0.1", 0)) as server:
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setattr("urllib.request.getproxies", dict)
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
            with offline_fallback():
                inside = (huggingface_hub.constants.HF_HUB_OFFLINE, socket.getdefaulttimeout())
        assert inside == (switched_off, 20.0)
        assert socket.getdefaulttimeout() is None


class TestLoadedNet:
    """What is known of pretrained weights afterwards."""

    def test_a_file_is_named_with_its_hash(self, tmp_path):
        """Without the folder it lay in, and without a licence, which a file does not tell."""
        file = saved(trained("test_resnet"), tmp_path)
        loaded = load_network("test_resnet", pretrained_file=file)
        assert loaded.weights.kind == "pretrained"
        assert loaded.weights.licence == ""
        assert loaded.weights.url.startswith("file:weights.safetensors#sha256=")
        assert len(loaded.weights.url.split("=")[1]) == 64
        assert not loaded.network.training

    def test_a_run_has_its_own_weights(self, short_run, tmp_path):
        """Asking for others is an error, not ignored."""
        with pytest.raises(SettingsError, match="is a run, which has its own weights"):
            load_network(short_run, pretrained_file=tmp_path / "weights.pth")
