"""Images are prepared as timm's evaluation transform prepares them, pixel for pixel."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from protos import inference
from serve.client import images
from serve.client.preprocessing import PARAMETER, Preprocessing
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
    """Every rule gives timm's pixels, for tall, wide and small images and square and other targets."""
    for size, (height, width) in itertools.product(IMAGES, TARGETS):
        rule = Preprocessing(
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
        assert np.array_equal(images.prepare(image(size), rule), expected), (size, height, width)


class TestFiles:
    """From files and folders."""

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        """A 16-bit grey image keeps its greys, as 8 bits."""
        Image.fromarray(np.array([[0, 2000], [20000, 65535]], np.uint16)).save(tmp_path / "deep.png")
        rule = Preprocessing(channels=1, height=2, width=2, interpolation="nearest")
        assert images.load(tmp_path / "deep.png", rule)[..., 0].tolist() == [[0, 8], [78, 255]]

    @pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGBA", 3), ("P", 3), ("RGB", 1), ("1", 1)])
    def test_any_mode(self, tmp_path: Path, mode: str, channels: int) -> None:
        """Grey, palette and transparent images become what the model takes."""
        path = tmp_path / "a.png"
        image((8, 6)).convert(mode).save(path)
        pixels = images.load(path, Preprocessing(channels=channels, height=5, width=4))
        assert (pixels.shape, pixels.dtype) == ((5, 4, channels), np.uint8)

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n broken"])
    def test_not_a_image(self, tmp_path: Path, content: bytes) -> None:
        """A file that is no image is one clear error that names it."""
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ImageError, match=r"a\.png cannot be read as an image"):
            images.load(tmp_path / "a.png", Preprocessing(channels=3, height=4, width=4))

    def test_torn_image(self, tmp_path: Path) -> None:
        """An image that ends early is refused, not half grey."""
        image((64, 64)).save(tmp_path / "a.png")
        data = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match=r"a\.png cannot be read as an image: .*(truncated|broken)"):
            images.load(tmp_path / "a.png", Preprocessing(channels=3, height=4, width=4))

    def test_find(self, tmp_path: Path) -> None:
        """Folders are walked and sorted; what is named itself is taken whatever its name."""
        for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", "named.dat"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = images.find([tmp_path / "named.dat", tmp_path])
        assert [str(each.relative_to(tmp_path)) for each in found] == ["named.dat", "a.webp", "b/1.png", "b/2.JPG"]

    def test_find_nothing(self, tmp_path: Path) -> None:
        """A missing place and a folder without images are told apart."""
        with pytest.raises(ImageError, match="there is no file or folder"):
            images.find([tmp_path / "nowhere"])
        with pytest.raises(ImageError, match="holds no image"):
            images.find([tmp_path])


class TestRule:
    """The rule travels in ModelConfig's parameters."""

    def test_reads_a_rule(self) -> None:
        """Absent fields take their defaults."""
        parameters = {PARAMETER: inference.ModelParameter(string_value='{"channels": 1, "height": 8, "width": 9}')}
        assert Preprocessing.from_parameters(parameters) == Preprocessing(channels=1, height=8, width=9)

    def test_no_rule(self) -> None:
        """A model without one is no error here."""
        assert Preprocessing.from_parameters({}) is None

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("not json", "cannot be read"),
            ('{"channels": 2, "height": 8, "width": 8}', "says 2"),
            ('{"channels": 1, "height": 0, "width": 8}', "0 x 8"),
            ('{"channels": 1, "height": 8, "width": 8, "crop_mode": "smart"}', "'smart'"),
            ('{"channels": 1, "height": 8, "width": 8, "interpolation": "lanczos"}', "'lanczos'"),
            ('{"channels": 1, "height": 8, "width": 8, "crop_pct": 2.5}', "2.5"),
        ],
    )
    def test_bad_rule(self, text: str, words: str) -> None:
        """A rule that cannot be followed is refused, not guessed at."""
        with pytest.raises(UnsupportedModelError, match=words):
            Preprocessing.from_parameters({PARAMETER: inference.ModelParameter(string_value=text)})
