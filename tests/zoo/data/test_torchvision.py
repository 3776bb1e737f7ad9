"""torchvision's datasets, read by torchvision from files in its own formats."""

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
from zoo.data.torchvision import LAYOUTS
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import TrainSettings
from zoo.training.trainer import train

GREY = Preprocessing(input_size=(1, 28, 28), mean=(0.5,), std=(0.25,))
COLOUR = Preprocessing(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The datasets' folder; connections to other machines fail."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    connect = socket.create_connection

    def connect_locally(address, *rest, **options):
        if address[0] != "127.0.0.1":
            raise OSError("Network is unreachable")
        return connect(address, *rest, **options)

    monkeypatch.setattr("socket.create_connection", connect_locally)
    return tmp_path / "torch" / "datasets"


def write_idx(file: Path, values: np.ndarray) -> None:
    """Write the format of MNIST: type and number of axes, their lengths, the bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(">HBB" + "I" * values.ndim, 0, 8, values.ndim, *values.shape) + values.tobytes())


def write_fashion(folder: Path, train: int = 60, test: int = 20) -> dict[str, np.ndarray]:
    """Write FashionMNIST with random images and equal numbers per class; return the images by file prefix."""
    rng, images = np.random.default_rng(0), {}
    for prefix, count in (("train", train), ("t10k", test)):
        images[prefix] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        raw = folder / "FashionMNIST" / "FashionMNIST" / "raw"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[prefix])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return images


def test_idx_files(folder):
    """The test split is torchvision's; val is held out of train by class, deterministically."""
    images = write_fashion(folder)
    data, again = (find_data("torchvision:FashionMNIST").for_network(GREY) for _ in range(2))
    assert (data.labels[:2], data.name) == (("T-shirt/top", "Trouser"), "torchvision:FashionMNIST")
    assert [len(split) for split in (data.train, data.val, data.test)] == [50, 10, 20]
    assert data.val.targets.bincount().tolist() == [1] * 10
    assert data.val.indices == again.val.indices
    assert set(data.val.indices).isdisjoint(data.train.indices)
    (pixels,) = data.test.batches([torch.arange(20)])
    assert np.array_equal(pixels.numpy()[..., 0], images["t10k"])
    assert data.augmentation == Augmentation()


def test_the_key_changes_with_the_images(folder):
    """The key changes with one pixel, so a run is not resumed with other images."""
    write_fashion(folder)
    before = find_data("torchvision:FashionMNIST").for_network(GREY)
    assert find_data("torchvision:FashionMNIST").for_network(GREY).train.key() == before.train.key()
    assert before.train.key() != before.val.key()
    raw = folder / "FashionMNIST" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:-1] + b"\0\0"[:1])
    assert find_data("torchvision:FashionMNIST").for_network(GREY).train.key() != before.train.key()


def test_pickled_batches(folder, monkeypatch):
    """CIFAR-10 is read from pickled batches, whose hashes torchvision checks."""
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
    data = find_data("torchvision:CIFAR10").for_network(COLOUR)
    assert data.labels == ("cat", "dog")
    assert [len(split) for split in (data.train, data.val, data.test)] == [26, 4, 30]
    assert next(data.train.batches([torch.arange(2)])).shape == (2, 32, 32, 3)
    assert data.augmentation.flip == 0.5


def test_image_files(folder):
    """OxfordIIITPet is read from JPEG files and a list of labels."""
    base = folder / "OxfordIIITPet" / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    for split, count in (("trainval", 6), ("test", 2)):
        names = [f"{breed}_{split}{index}" for index in range(count) for breed in ("Bengal", "german_boxer")]
        for name in names:
            Image.new("RGB", (50, 40), (200, 100, 0)).save(base / "images" / f"{name}.jpg")
        rows = [f"{name} {1 + ('boxer' in name)} 1 1" for name in names]
        (base / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    data = find_data("torchvision:OxfordIIITPet", workers=1).for_network(COLOUR)
    assert data.labels == ("Bengal", "German Boxer")
    assert [len(split) for split in (data.train, data.val, data.test)] == [10, 2, 4]
    (pixels,) = data.test.batches([torch.arange(4)])
    assert np.abs(pixels.numpy().astype(int) - [200, 100, 0]).max() < 6


def test_a_dataset_without_splits_is_split(folder):
    """EuroSAT has one split: val and test are held out of it."""
    for label in ("Forest", "River"):
        images = folder / "EuroSAT" / "eurosat" / "2750" / label
        images.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(images / f"{index}.jpg")
    data = find_data("torchvision:EuroSAT").for_network(COLOUR)
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 2, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_an_error(folder, workers):
    """Reading a broken image raises an error with its index, with and without workers."""
    test_a_dataset_without_splits_is_split(folder)
    for file in folder.rglob("*.jpg"):
        file.write_bytes(b"none")
    data = find_data("torchvision:EuroSAT", workers=workers).for_network(COLOUR)
    with pytest.raises(DataError, match=r"^image \d+ cannot be read: not an image that Pillow can read"):
        next(data.val.batches([torch.tensor([0])]))


def test_offline(folder):
    """The error states where the files were expected and what to do; no folder is left behind."""
    with pytest.raises(DataError) as caught:
        find_data("torchvision:FashionMNIST")
    assert f"FashionMNIST is not in {folder / 'FashionMNIST'}" in str(caught.value)
    assert "cannot be downloaded" in str(caught.value)
    assert "set TORCH_HOME" in str(caught.value)
    assert [*folder.iterdir()] == []


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without log messages."""

    def log_message(self, *arguments):
        pass


def test_a_download(folder, monkeypatch):
    """torchvision downloads and unpacks the files from a local server into a complete folder."""
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import calculate_md5

    write_fashion(folder)
    remote = folder.parent / "remote"
    remote.mkdir()
    resources = []
    for raw in sorted((folder / "FashionMNIST" / "FashionMNIST" / "raw").iterdir()):
        packed = remote / f"{raw.name}.gz"
        packed.write_bytes(gzip.compress(raw.read_bytes()))
        resources.append((packed.name, calculate_md5(packed)))
    shutil.rmtree(folder / "FashionMNIST")
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    handler = functools.partial(SilentHandler, directory=str(remote))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        data = find_data("torchvision:FashionMNIST").for_network(GREY)
        server.shutdown()
    assert len(data.test) == 20
    assert [entry.name for entry in folder.iterdir()] == ["FashionMNIST"]


@pytest.mark.parametrize(
    ("name", "hint"), [("CIFAR", "CIFAR10"), ("FashonMNIST", "FashionMNIST"), ("COCO", "There are:")]
)
def test_unknown_names(folder, name, hint):
    """The error suggests the closest names, or lists all of them."""
    with pytest.raises(DataError, match=hint):
        find_data(f"torchvision:{name}")


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_match_torchvision(name):
    """Each layout names a class of torchvision with these constructor options and this attribute for targets."""
    import inspect

    from torchvision import datasets

    dataset_class = getattr(datasets, name)
    bases = [base for base in dataset_class.__mro__[:-1] if base.__module__.startswith("torchvision")]
    source = "".join(inspect.getsource(base) for base in bases)
    assert f"self.{LAYOUTS[name].targets}" in source
    for options in LAYOUTS[name].splits.values():
        assert all(option in inspect.signature(dataset_class).parameters for option in options)
        assert all(f'"{value}"' in source for value in options.values() if isinstance(value, str))
    assert "download" in inspect.signature(dataset_class).parameters


def test_training_on_a_torchvision_dataset(folder, tmp_path):
    """A network is trained on a torchvision dataset by name."""
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
