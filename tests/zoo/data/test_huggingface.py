"""Data sets that the datasets library reads, from folders of its own forms."""

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

RULE = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Neither network nor the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def image(number: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), number, np.uint8))


def png(number: int) -> bytes:
    held = io.BytesIO()
    image(number).save(held, "PNG")
    return held.getvalue()


def write_parquet(root: Path, features: dict, splits: dict[str, int], row) -> str:
    """A data set of parquet files; `row` gives the columns of an image's number, besides the image."""
    kinds = datasets.Features({"image": datasets.Image(), **features})
    root.mkdir()
    for split, count in splits.items():
        rows = [{"image": {"bytes": png(number), "path": None}, **row(number)} for number in range(count)]
        table = pyarrow.Table.from_pylist(rows, schema=kinds.arrow_schema)
        pyarrow.parquet.write_table(table, root / f"{split}.parquet")
    return f"hf:{root}"


def kinds(*names: str):
    return datasets.ClassLabel(names=list(names))


def test_an_image_folder(tmp_path):
    """Labels are the folders; what the library does not have is held out."""
    for label in ("cat", "dog"):
        (tmp_path / "pets" / "train" / label).mkdir(parents=True)
        for number in range(10):
            image(number).save(tmp_path / "pets" / "train" / label / f"{number}.png")
    data = find_data(f"hf:{tmp_path / 'pets'}", workers=1).for_net(RULE)
    assert (data.labels, data.name) == (("cat", "dog"), "hf:pets")
    assert [part.targets.bincount().tolist() for part in (data.train, data.val, data.test)] == [[8, 8], [1, 1], [1, 1]]
    (pixels,) = data.train.batches([torch.arange(16)])
    assert len(set(pixels[:, 0, 0, 0].tolist())) >= 8


def test_splits_are_mapped(tmp_path):
    """validation is val; an image is what the file says."""
    name = write_parquet(
        tmp_path / "set",
        {"label": kinds("a", "b")},
        {"train": 8, "validation": 4, "test": 6},
        lambda number: {"label": number % 2},
    )
    data = find_data(name).for_net(RULE)
    assert [len(part) for part in (data.train, data.val, data.test)] == [8, 4, 6]
    (pixels,) = data.test.batches([torch.arange(6)])
    assert pixels[:, 0, 0, 0].tolist() == list(range(6))
    assert data.test.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert find_data(name).for_net(RULE).train.key() == data.train.key() != data.val.key()


def test_lists_of_labels_are_multi_label(tmp_path):
    """Each image has those of its list."""
    name = write_parquet(
        tmp_path / "set",
        {"tags": datasets.List(kinds("a", "b", "c"))},
        {"train": 20},
        lambda number: {"tags": [[], [0], [1, 2]][number % 3]},
    )
    data = find_data(name).for_net(RULE)
    assert data.task == "multi-label"
    assert {tuple(row) for row in data.train.targets.tolist()} == {(0, 0, 0), (1, 0, 0), (0, 1, 1)}


def test_columns_of_classes(tmp_path):
    """Where there are several, the name says which."""
    name = write_parquet(
        tmp_path / "set",
        {"fine": kinds("a", "b", "c"), "coarse": kinds("x", "y")},
        {"train": 12},
        lambda number: {"fine": number % 3, "coarse": number % 2},
    )
    with pytest.raises(DataError, match=r"it has fine, coarse among image, fine, coarse; choose one: hf:.*#COLUMN"):
        find_data(name)
    data = find_data(f"{name}#coarse").for_net(RULE)
    assert (data.labels, redacted_name(f"{name}#coarse")) == (("x", "y"), "hf:set#coarse")
    with pytest.raises(DataError, match="has no column 'fin' of classes"):
        find_data(f"{name}#fin")


def test_images_without_a_class(tmp_path):
    """Some hubs hide those of the test split."""
    name = write_parquet(tmp_path / "set", {"label": kinds("a", "b")}, {"train": 8}, lambda number: {"label": None})
    with pytest.raises(DataError, match="has images without a class"):
        find_data(name)


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (["a"], 8, r"the data have 1 classes \(a\); a classifier needs two"),
        (["a", "b"], 4, "'[ab]' has 2 images; .* needs 3"),
    ],
)
def test_too_little(tmp_path, names, count, message):
    """Classes, or images of one."""
    name = write_parquet(
        tmp_path / "set", {"label": kinds(*names)}, {"train": count}, lambda number: {"label": number % len(names)}
    )
    with pytest.raises(DataError, match=message):
        find_data(name)


def test_offline():
    """The library's reason, and what to do."""
    with pytest.raises(
        DataError, match=r"the data set nobody/nothing cannot be loaded .*; check the name and the network"
    ):
        find_data("hf:nobody/nothing")


def test_a_hub_that_answers_nothing_is_given_up_soon(monkeypatch, caplog):
    """It is asked once, and the library neither tries again nor tells of it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr("urllib.request.getproxies", dict)
    for place, name in ((datasets.config, "HF_ENDPOINT"), (huggingface_hub.constants, "ENDPOINT")):
        monkeypatch.setattr(place, name, endpoint)
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    started = time.perf_counter()
    with pytest.raises(
        DataError, match=r"\(the hub cannot be reached, and its cache on this machine does not hold it\)"
    ):
        find_data("hf:nobody/nothing")
    assert time.perf_counter() - started < 5
    assert caplog.messages == []


def test_a_folder_asks_no_hub(monkeypatch, tmp_path):
    """Not even whether it is there."""
    monkeypatch.setattr("zoo.storage.hub._is_reachable", lambda endpoint: pytest.fail(f"asked {endpoint}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    name = write_parquet(
        tmp_path / "set", {"label": kinds("a", "b")}, {"train": 8}, lambda number: {"label": number % 2}
    )
    assert find_data(name).labels == ("a", "b")


def test_a_missing_package(monkeypatch):
    """Which extra brings it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'zoonnx\[hf\]'"):
        find_data("hf:beans")


def test_a_subset_is_chosen_by_its_name(tmp_path):
    """Of a set that has several; without a name the library's list of them is told."""
    for subset, labels in (("pets", ("cat", "dog")), ("birds", ("tit", "owl"))):
        write_parquet(tmp_path / subset, {"label": kinds(*labels)}, {"train": 12}, lambda number: {"label": number % 2})
    configs = "".join(f"- config_name: {each}\n  data_files: {each}/train.parquet\n" for each in ("pets", "birds"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert find_data(f"hf:{tmp_path}@birds").labels == ("tit", "owl")
    assert find_data(f"hf:{tmp_path}@pets#label").name == f"hf:{tmp_path.name}@pets#label"
    with pytest.raises(DataError, match=r"pets.*birds.*hf:NAME@SUBSET"):
        find_data(f"hf:{tmp_path}")
