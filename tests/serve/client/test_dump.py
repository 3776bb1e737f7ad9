"""`zoonnx dump` saves exact layer outputs and a contact sheet."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from export import ExportSettings, export_model
from serve.client.sync import Client
from tests.conftest import Zoonnx
from tests.export.conftest import randomize_batch_norms
from tests.serve.conftest import Serve
from zoo import load_network


@pytest.fixture(scope="module")
def url(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of convnet4 with random weights."""
    models = tmp_path_factory.mktemp("dumped") / "models"
    loaded = load_network("convnet4")
    randomize_batch_norms(loaded.network)
    export_model(loaded, ExportSettings(to=models, name="tiny"))
    with serve(models, "--grpc-port", 0, "--provider", "cpu") as process:
        line = process.stdout.readline() if process.stdout else ""
        yield line.split()[-1]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Eleven images: more than fit into one request."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(11):
        noise = np.random.default_rng(index).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(noise).save(folder / f"{index:02}.png")
    return folder


def test_dump_of_a_folder(zoonnx: Zoonnx, url: str, image_folder: Path, tmp_path: Path) -> None:
    """The file has a tensor per matching layer, images first, and the names of the image files."""
    out = tmp_path / "new" / "layers.safetensors"
    done = zoonnx(
        *("dump", image_folder, "--model", "tiny", "--url", url, "--out", out),
        *("--layers", "act*", "--layers", "head.fc", "--layers", "conv1"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    tensors = load_file(out)
    assert {name: array.shape[0] for name, array in tensors.items()} == dict.fromkeys(
        ["act1", "act2", "act3", "act4", "head.fc"], 11
    )
    images = np.stack([np.asarray(Image.open(file))[..., None] for file in sorted(image_folder.iterdir())])
    with Client(url) as client:
        expected = client.activations("tiny", {"image": images}, ["act3"])["act3"]
    np.testing.assert_allclose(tensors["act3"], expected, rtol=1e-5, atol=1e-5)
    origin = json.loads(zoonnx_metadata(out))
    assert (origin["model"], origin["version"], len(origin["files"])) == ("tiny", "1", 11)
    assert "not saved: conv1; the export folded it into 'bn1'" in done.stdout


def zoonnx_metadata(path: Path) -> str:
    with safe_open(path, "numpy") as file:
        return str(file.metadata()["zoonnx"])


def test_contact_sheet_file(zoonnx: Zoonnx, url: str, image_folder: Path, tmp_path: Path) -> None:
    """The contact sheet is written beside the tensors, without temporary files, and both are reproducible."""
    out = tmp_path / "here" / "all.safetensors"
    done = zoonnx("dump", image_folder / "00.png", "--model", "tiny", "--url", url, "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in out.parent.iterdir()) == ["all.png", "all.safetensors"]
    with Image.open(out.with_suffix(".png")) as image:
        assert (image.format, image.width, image.height > 1000) == ("PNG", 1120, True)
    assert len(load_file(out)) == 16
    first_bytes = out.read_bytes()
    assert zoonnx("dump", image_folder / "00.png", "--model", "tiny", "--url", url, "--out", out).returncode == 0
    assert out.read_bytes() == first_bytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "conv*", "--out", "{tmp}/a.safetensors"), "'conv1': the export folded it into 'bn1'"),
        (("--layers", "zzz*", "--out", "{tmp}/a.safetensors"), "no layer of model 'tiny' matches 'zzz*'"),
        (("--out", "{tmp}/a.npz"), "must end in .safetensors"),
        (("--out", "{tmp}/images/00.png/a.safetensors"), "cannot write"),
    ],
)
def test_mistakes(
    zoonnx: Zoonnx, url: str, image_folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """A user error is reported in one line, and no file is written."""
    options = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    done = zoonnx("dump", image_folder, "--model", "tiny", "--url", url, *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
