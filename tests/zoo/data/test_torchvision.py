"""torchvision's sets, read by torchvision from files in its own formats."""

import functools
import gzip
import http.server
import pickle
import shutil
import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import torchvision
from zoo.data.augmentation import Augmentation
from zoo.data.registry import find_data
from zoo.data.torchvision import SETS
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import TrainSettings
from zoo.training.trainer import train

GREY = Preprocessing(input_size=(1, 28, 28), mean=(0.5,), std=(0.25,))
COLOUR = Preprocessing(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the sets are looked for; the network is not there, but for this machine itself."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    connect = socket.create_connection

    def refuse(address, *rest, **options):
        if address[0] != "127.0.0.1":
            raise OSError("Network is unreachable")
        return connect(address, *rest, **options)

    monkeypatch.setattr("socket.create_connection", refuse)
    return tmp_path / "torch" / "datasets"


def write_idx(file: Path, values: np.ndarray) -> None:
    """The format of MNIST: type and number of axes, their lengths, the bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(">HBB" + "I" * values.ndim, 0, 8, values.ndim, *values.shape) + values.tobytes())


def write_fashion(folder: Path, train: int = 60, test: int = 20) -> dict[str, np.ndarray]:
    """FashionMNIST with noise for images, each class as often as any other."""
    rng, written = np.random.default_rng(0), {}
    for prefix, count in (("train", train), ("t10k", test)):
        written[prefix] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        raw = folder / "FashionMNIST" / "FashionMNIST" / "raw"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", written[prefix])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return written


def test_idx_files(folder):
    """The test split is torchvision's; val is divided off train, class by class, the same each time."""
    written = write_fashion(folder)
    data, again = (find_data("torchvision:FashionMNIST").for_net(GREY) for _ in range(2))
    assert (data.labels[:2], data.name) == (("T-shirt/top", "Trouser"), "torchvision:FashionMNIST")
    assert [len(part) for part in (data.train, data.val, data.test)] == [50, 10, 20]
    assert data.val.targets.bincount().tolist() == [1] * 10
    assert data.val.indices == again.val.indices
    assert set(data.val.indices).isdisjoint(data.train.indices)
    (pixels,) = data.test.batches([torch.arange(20)])
    assert np.array_equal(pixels.numpy()[..., 0], written["t10k"])
    assert data.augmentation == Augmentation()


def test_a_key_changes_with_the_images(folder):
    """So that a run is not resumed on others."""
    write_fashion(folder)
    before = find_data("torchvision:FashionMNIST").for_net(GREY)
    assert find_data("torchvision:FashionMNIST").for_net(GREY).train.key() == before.train.key()
    assert before.train.key() != before.val.key()
    raw = folder / "FashionMNIST" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:-1] + b"\0\0"[:1])
    assert find_data("torchvision:FashionMNIST").for_net(GREY).train.key() != before.train.key()


def test_pickled_batches(folder, monkeypatch):
    """CIFAR-10, whose files torchvision holds against their hashes: here those of our own."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    base, rng = folder / "CIFAR10" / "cifar-10-batches-py", np.random.default_rng(0)
    base.mkdir(parents=True)
    hashes = {}
    for name in ["data_batch_1", "test_batch"]:
        content = {"data": rng.integers(0, 256, (30, 3072)).astype(np.uint8), "labels": [i % 2 for i in range(30)]}
        (base / name).write_bytes(pickle.dumps(content))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    hashes = {file.name: calculate_md5(file) for file in base.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", hashes["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", hashes["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashes["batches.meta"]})
    data = find_data("torchvision:CIFAR10").for_net(COLOUR)
    assert data.labels == ("cat", "dog")
    assert [len(part) for part in (data.train, data.val, data.test)] == [26, 4, 30]
    assert next(data.train.batches([torch.arange(2)])).shape == (2, 32, 32, 3)
    assert data.augmentation.flip == 0.5


def test_image_files(folder):
    """The pets: JPEG files, labels in a list."""
    base = folder / "OxfordIIITPet" / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    for split, count in (("trainval", 6), ("test", 2)):
        names = [f"{kind}_{split}{index}" for index in range(count) for kind in ("Bengal", "german_boxer")]
        for name in names:
            Image.new("RGB", (50, 40), (200, 100, 0)).save(base / "images" / f"{name}.jpg")
        rows = [f"{name} {1 + ('boxer' in name)} 1 1" for name in names]
        (base / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    data = find_data("torchvision:OxfordIIITPet", workers=1).for_net(COLOUR)
    assert data.labels == ("Bengal", "German Boxer")
    assert [len(part) for part in (data.train, data.val, data.test)] == [10, 2, 4]
    (pixels,) = data.test.batches([torch.arange(4)])
    assert np.abs(pixels.numpy().astype(int) - [200, 100, 0]).max() < 6


def test_a_set_without_splits_is_divided(folder):
    """EuroSAT is one folder: val and test are held out."""
    for label in ("Forest", "River"):
        place = folder / "EuroSAT" / "eurosat" / "2750" / label
        place.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(place / f"{index}.jpg")
    data = find_data("torchvision:EuroSAT").for_net(COLOUR)
    assert [len(part) for part in (data.train, data.val, data.test)] == [16, 2, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(folder, workers):
    """When it is asked for, by its number, whoever reads it."""
    test_a_set_without_splits_is_divided(folder)
    for file in folder.rglob("*.jpg"):
        file.write_bytes(b"none")
    data = find_data("torchvision:EuroSAT", workers=workers).for_net(COLOUR)
    with pytest.raises(DataError, match=r"^image \d+ cannot be read: it is no image that Pillow knows"):
        next(data.val.batches([torch.tensor([0])]))


def test_offline(folder):
    """It says where it looked and what to do, and leaves nothing behind."""
    with pytest.raises(DataError) as caught:
        find_data("torchvision:FashionMNIST")
    assert f"FashionMNIST is not in {folder / 'FashionMNIST'}" in str(caught.value)
    assert "cannot be downloaded" in str(caught.value)
    assert "set TORCH_HOME" in str(caught.value)
    assert [*folder.iterdir()] == []


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *words):
        pass


def test_a_download_appears_whole(folder, monkeypatch):
    """Torchvision's own download and unpacking, from a server on this machine."""
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import calculate_md5

    write_fashion(folder)
    shop = folder.parent / "shop"
    shop.mkdir()
    resources = []
    for raw in sorted((folder / "FashionMNIST" / "FashionMNIST" / "raw").iterdir()):
        packed = shop / f"{raw.name}.gz"
        packed.write_bytes(gzip.compress(raw.read_bytes()))
        resources.append((packed.name, calculate_md5(packed)))
    shutil.rmtree(folder / "FashionMNIST")
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    handler = functools.partial(Quiet, directory=str(shop))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        data = find_data("torchvision:FashionMNIST").for_net(GREY)
        server.shutdown()
    assert len(data.test) == 20
    assert [place.name for place in folder.iterdir()] == ["FashionMNIST"]


@pytest.mark.parametrize(
    ("name", "hint"), [("CIFAR", "CIFAR10"), ("FashonMNIST", "FashionMNIST"), ("COCO", "There are:")]
)
def test_unknown_names(folder, name, hint):
    """The closest known ones are named."""
    with pytest.raises(DataError, match=hint):
        find_data(f"torchvision:{name}")


@pytest.mark.parametrize("name", SETS)
def test_the_layouts_are_torchvisions(name):
    """Each is a class of torchvision whose source takes these options and keeps its targets there."""
    import inspect

    from torchvision import datasets

    kind = getattr(datasets, name)
    source = "".join(inspect.getsource(each) for each in kind.__mro__[:-1] if each.__module__.startswith("torchvision"))
    assert f"self.{SETS[name].targets}" in source
    for options in SETS[name].splits.values():
        assert all(option in inspect.signature(kind).parameters for option in options)
        assert all(f'"{value}"' in source for value in options.values() if isinstance(value, str))
    assert "download" in inspect.signature(kind).parameters


def test_a_run_on_it(folder, tmp_path):
    """From the name to weights."""
    write_fashion(folder)
    settings = TrainSettings(
        network="convnet4",
        data="torchvision:FashionMNIST",
        epochs=1,
        batch_size=10,
        input_size=(1, 28, 28),
        workers=0,
        device="cpu",
    )
    train(settings, tmp_path / "run")
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
    assert torchvision.torchvision_folder() == folder
