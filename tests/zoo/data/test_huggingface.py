"""Datasets that the `datasets` library reads, from local folders in its formats."""

import io
import socket
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.registry import find_data, redacted_name
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Use neither the network nor the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def image(number: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), number, np.uint8))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    image(number).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(root: Path, features: dict, splits: dict[str, int], row) -> str:
    """Write a dataset of parquet files, and return its name; `row(number)` returns the columns besides the image."""
    features = datasets.Features({"image": datasets.Image(), **features})
    root.mkdir()
    for split, count in splits.items():
        rows = [{"image": {"bytes": png(number), "path": None}, **row(number)} for number in range(count)]
        table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
        pyarrow.parquet.write_table(table, root / f"{split}.parquet")
    return f"hf:{root}"


def classes(*names: str):
    return datasets.ClassLabel(names=list(names))


def test_an_image_folder(tmp_path):
    """The classes are the folders; splits that the library does not have are held out of train."""
    for label in ("cat", "dog"):
        (tmp_path / "pets" / "train" / label).mkdir(parents=True)
        for number in range(10):
            image(number).save(tmp_path / "pets" / "train" / label / f"{number}.png")
    dataset = find_data(f"hf:{tmp_path / 'pets'}", workers=1).for_network(PREPROCESSING)
    assert (dataset.labels, dataset.name) == (("cat", "dog"), "hf:pets")
    assert [split.targets.bincount().tolist() for split in (dataset.train, dataset.val, dataset.test)] == [
        [8, 8],
        [1, 1],
        [1, 1],
    ]
    (pixels,) = dataset.train.batches([torch.arange(16)])
    assert len(set(pixels[:, 0, 0, 0].tolist())) >= 8


def test_splits_are_mapped(tmp_path):
    """The split `validation` becomes val; pixels and targets are those of the files."""
    name = write_parquet(
        tmp_path / "shapes",
        {"label": classes("a", "b")},
        {"train": 8, "validation": 4, "test": 6},
        lambda number: {"label": number % 2},
    )
    dataset = find_data(name).for_network(PREPROCESSING)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [8, 4, 6]
    (pixels,) = dataset.test.batches([torch.arange(6)])
    assert pixels[:, 0, 0, 0].tolist() == list(range(6))
    assert dataset.test.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert find_data(name).for_network(PREPROCESSING).train.key() == dataset.train.key() != dataset.val.key()


def test_lists_of_labels_are_multi_label(tmp_path):
    """A column of lists of classes makes multi-label data."""
    name = write_parquet(
        tmp_path / "shapes",
        {"tags": datasets.List(classes("a", "b", "c"))},
        {"train": 20},
        lambda number: {"tags": [[], [0], [1, 2]][number % 3]},
    )
    dataset = find_data(name).for_network(PREPROCESSING)
    assert dataset.task == "multi-label"
    assert {tuple(row) for row in dataset.train.targets.tolist()} == {(0, 0, 0), (1, 0, 0), (0, 1, 1)}


def test_the_name_chooses_among_columns_of_classes(tmp_path):
    """With several columns of classes, the name must choose one."""
    name = write_parquet(
        tmp_path / "shapes",
        {"fine": classes("a", "b", "c"), "coarse": classes("x", "y")},
        {"train": 12},
        lambda number: {"fine": number % 3, "coarse": number % 2},
    )
    with pytest.raises(
        DataError, match=r"found fine, coarse among the columns image, fine, coarse; choose one: hf:.*#COLUMN"
    ):
        find_data(name)
    dataset = find_data(f"{name}#coarse").for_network(PREPROCESSING)
    assert (dataset.labels, redacted_name(f"{name}#coarse")) == (("x", "y"), "hf:shapes#coarse")
    with pytest.raises(DataError, match="has no column 'fin' of classes"):
        find_data(f"{name}#fin")


def test_images_without_a_class(tmp_path):
    """Images without a class are refused; some datasets hide the classes of the test split."""
    name = write_parquet(
        tmp_path / "shapes", {"label": classes("a", "b")}, {"train": 8}, lambda number: {"label": None}
    )
    with pytest.raises(DataError, match="has images without a class"):
        find_data(name)


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (["a"], 8, r"the dataset has 1 classes \(a\); at least 2 are needed"),
        (["a", "b"], 4, "'[ab]' has 2 images; .* needs at least 3"),
    ],
)
def test_too_few_classes_or_images(tmp_path, names, count, message):
    """Fewer than two classes, or too few images of a class, are refused."""
    name = write_parquet(
        tmp_path / "shapes", {"label": classes(*names)}, {"train": count}, lambda number: {"label": number % len(names)}
    )
    with pytest.raises(DataError, match=message):
        find_data(name)


def test_a_dataset_that_cannot_be_loaded():
    """The error contains the library's reason and what to do."""
    with pytest.raises(
        DataError, match=r"the dataset nobody/nothing cannot be loaded .*; check the name and the network"
    ):
        find_data("hf:nobody/nothing")


def test_an_unreachable_hub_fails_fast(monkeypatch, caplog):
    """The hub is tried once, without retries and without log messages."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr("urllib.request.getproxies", dict)
    for module, name in ((datasets.config, "HF_ENDPOINT"), (huggingface_hub.constants, "ENDPOINT")):
        monkeypatch.setattr(module, name, endpoint)
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"\(the hub cannot be reached, and the local cache does not have it\)"):
        find_data("hf:nobody/nothing")
    assert time.perf_counter() - started < 5
    assert caplog.messages == []


def test_a_folder_needs_no_hub(monkeypatch, tmp_path):
    """Opening a local folder does not even check whether the hub can be reached."""
    monkeypatch.setattr("zoo.storage.hub._is_reachable", lambda endpoint: pytest.fail(f"connected to {endpoint}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    name = write_parquet(
        tmp_path / "shapes", {"label": classes("a", "b")}, {"train": 8}, lambda number: {"label": number % 2}
    )
    assert find_data(name).labels == ("a", "b")


def test_a_missing_package(monkeypatch):
    """The error names the extra that installs the package."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'zoonnx\[hf\]'"):
        find_data("hf:beans")


def test_a_subset_is_chosen_by_its_name(tmp_path):
    """A dataset with several subsets needs the name of one; the error lists them."""
    for subset, labels in (("pets", ("cat", "dog")), ("birds", ("tit", "owl"))):
        write_parquet(
            tmp_path / subset, {"label": classes(*labels)}, {"train": 12}, lambda number: {"label": number % 2}
        )
    configs = "".join(
        f"- config_name: {subset}\n  data_files: {subset}/train.parquet\n" for subset in ("pets", "birds")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert find_data(f"hf:{tmp_path}@birds").labels == ("tit", "owl")
    assert find_data(f"hf:{tmp_path}@pets#label").name == f"hf:{tmp_path.name}@pets#label"
    with pytest.raises(DataError, match=r"pets.*birds.*hf:NAME@SUBSET"):
        find_data(f"hf:{tmp_path}")
