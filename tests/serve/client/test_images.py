"""Finding, decoding and preparing image files; the preprocessing parameter of a model."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from protos import inference
from protos.keys import PREPROCESSING_KEY
from serve.client import images
from serve.client.preprocessing import Preprocessing
from serve.errors import ImageError, UnsupportedModelError

MEAN = (0.485, 0.456, 0.406)
IMAGES = [(64, 48), (37, 91), (30, 30), (7, 200)]  # (width, height)
TARGETS = [(32, 32), (24, 40), (41, 23)]  # (height, width)


def image(size: tuple[int, int], channels: int = 3) -> Image.Image:
    shape = (size[1], size[0], channels)
    pixels = np.random.default_rng(sum(size)).integers(0, 256, shape, np.uint8)
    return Image.fromarray(pixels.squeeze(), images.MODES[channels])


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 1.15])
def test_equals_timm(crop_mode: Any, interpolation: Any, crop_pct: float) -> None:
    """The pixels equal timm's for tall, wide and small images, and for square and other targets."""
    for size, (height, width) in itertools.product(IMAGES, TARGETS):
        preprocessing = Preprocessing(
            channels=3,
            height=height,
            width=width,
            interpolation=interpolation,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            mean=MEAN,
        )
        transform = create_transform(
            (3, height, width),
            interpolation=interpolation,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            mean=MEAN,
            normalize=False,
        )
        expected = transform(image(size)).numpy().transpose(1, 2, 0)
        assert np.array_equal(images.prepare(image(size), preprocessing), expected), (size, height, width)


class TestFiles:
    """Reading files and folders."""

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        """A 16-bit grey image is scaled to 8 bits."""
        Image.fromarray(np.array([[0, 2000], [20000, 65535]], np.uint16)).save(tmp_path / "deep.png")
        preprocessing = Preprocessing(channels=1, height=2, width=2, interpolation="nearest")
        assert images.load(tmp_path / "deep.png", preprocessing)[..., 0].tolist() == [[0, 8], [78, 255]]

    @pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGBA", 3), ("P", 3), ("RGB", 1), ("1", 1)])
    def test_any_mode(self, tmp_path: Path, mode: str, channels: int) -> None:
        """Grey, palette and transparent images are converted to the model's channels."""
        path = tmp_path / "a.png"
        image((8, 6)).convert(mode).save(path)
        pixels = images.load(path, Preprocessing(channels=channels, height=5, width=4))
        assert (pixels.shape, pixels.dtype) == ((5, 4, channels), np.uint8)

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n broken"])
    def test_not_an_image(self, tmp_path: Path, content: bytes) -> None:
        """A file that is not an image raises an ImageError that names it."""
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ImageError, match=r"a\.png cannot be read as an image"):
            images.load(tmp_path / "a.png", Preprocessing(channels=3, height=4, width=4))

    def test_truncated_image(self, tmp_path: Path) -> None:
        """A truncated image is rejected, not padded with grey."""
        image((64, 64)).save(tmp_path / "a.png")
        data = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match=r"a\.png cannot be read as an image: .*(truncated|broken)"):
            images.load(tmp_path / "a.png", Preprocessing(channels=3, height=4, width=4))

    def test_find(self, tmp_path: Path) -> None:
        """Folders are searched recursively and sorted; a file that is named itself needs no image suffix."""
        for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", "named.dat"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        files = images.find([tmp_path / "named.dat", tmp_path])
        assert [str(file.relative_to(tmp_path)) for file in files] == ["named.dat", "a.webp", "b/1.png", "b/2.JPG"]

    def test_find_nothing(self, tmp_path: Path) -> None:
        """A missing path and a folder without images are different errors."""
        with pytest.raises(ImageError, match="there is no file or folder"):
            images.find([tmp_path / "nowhere"])
        with pytest.raises(ImageError, match="contains no images"):
            images.find([tmp_path])


class TestPreprocessingParameter:
    """Preprocessing is a parameter of ModelConfig."""

    def test_default_values(self) -> None:
        """Absent fields get their default values."""
        parameters = {
            PREPROCESSING_KEY: inference.ModelParameter(string_value='{"channels": 1, "height": 8, "width": 9}')
        }
        assert Preprocessing.from_parameters(parameters) == Preprocessing(channels=1, height=8, width=9)

    def test_absent(self) -> None:
        """A model without the parameter has no preprocessing, which is not an error."""
        assert Preprocessing.from_parameters({}) is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("not json", "cannot be parsed"),
            ('{"channels": 2, "height": 8, "width": 8}', "1 or 3 channels; got 2"),
            ('{"channels": 1, "height": 0, "width": 8}', "got 0 x 8"),
            ('{"channels": 1, "height": 8, "width": 8, "crop_mode": "smart"}', "'smart'"),
            ('{"channels": 1, "height": 8, "width": 8, "interpolation": "lanczos"}', "'lanczos'"),
            ('{"channels": 1, "height": 8, "width": 8, "crop_pct": 2.5}', "got 2.5"),
        ],
    )
    def test_unsupported(self, text: str, message: str) -> None:
        """Invalid or unsupported preprocessing is rejected."""
        with pytest.raises(UnsupportedModelError, match=message):
            Preprocessing.from_parameters({PREPROCESSING_KEY: inference.ModelParameter(string_value=text)})
