"""A model's preprocessing produces exactly the pixels of timm's evaluation transform.

Every configuration in timm's registry is tested on real photographs; Hypothesis generates others.
"""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from timm.models import get_pretrained_cfg

from serve.client import images
from serve.client.preprocessing import Preprocessing
from serve.errors import ImageError, UnsupportedModelError
from zoo.data.augmentation import resize_and_crop
from zoo.data.image_io import SUFFIXES, read_image
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing as ZooPreprocessing

MEAN = (0.485, 0.456, 0.406)
pytestmark = pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")


@cache
def photograph(name: str) -> Image.Image:
    """One of scikit-learn's two photographs, 640 x 427."""
    return Image.fromarray(load_sample_image(name))


def registry() -> list[tuple[str, float, str, int, int]]:
    """Every (interpolation, crop_pct, crop_mode, height, width) in timm's registry, test sizes included."""
    configurations = set()
    for name in timm.list_models(include_tags=True):
        cfg = get_pretrained_cfg(name, allow_unregistered=True)
        for size in (cfg.input_size, cfg.test_input_size):
            for pct in (cfg.crop_pct, cfg.test_crop_pct):
                if size and pct:
                    configurations.add((cfg.interpolation, pct, cfg.crop_mode, *size[1:]))
    return sorted(configurations)


def preprocessing_of(
    interpolation: str, crop_pct: float, crop_mode: str, height: int, width: int, channels: int = 3
) -> Any:
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        interpolation=interpolation,  # type: ignore[arg-type]
        crop_pct=crop_pct,
        crop_mode=crop_mode,  # type: ignore[arg-type]
        mean=MEAN if channels == 3 else (0.25,),
    )


def timm_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Any]:
    """Timm's evaluation transform without the normalisation; returns uint8, (H, W, C)."""
    transform = create_transform(
        (preprocessing.channels, preprocessing.height, preprocessing.width),
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        normalize=False,
    )
    return lambda image: transform(image).numpy().transpose(1, 2, 0)


def max_difference(image: Image.Image, preprocessing: Preprocessing) -> int:
    actual, expected = images.prepare(image, preprocessing), timm_transform(preprocessing)(image)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    return int(np.abs(actual.astype(int) - expected.astype(int)).max())


def test_registry_is_complete() -> None:
    """The registry under test has every interpolation and crop mode of timm."""
    configurations = registry()
    assert len(configurations) > 100
    assert {configuration[0] for configuration in configurations} == {"bilinear", "bicubic"}
    assert {configuration[2] for configuration in configurations} == {"center", "squash", "border"}


def test_timm_registry_on_a_photograph() -> None:
    """No pixel of a full photograph differs, for any configuration of timm."""
    for configuration in registry():
        assert max_difference(photograph("china.jpg"), preprocessing_of(*configuration)) == 0, configuration


def test_timm_registry_on_odd_sizes() -> None:
    """No pixel of a tall image differs; its size changes with the configuration."""
    tall = photograph("flower.jpg").transpose(Image.Transpose.ROTATE_90)
    for index, configuration in enumerate(registry()):
        image = tall.crop((100, 50, 201 + index % 5, 351 + index % 7))
        assert max_difference(image, preprocessing_of(*configuration)) == 0, (configuration, image.size)


def test_preprocessing_that_leaves_no_pixels() -> None:
    """Preprocessing for which timm fails on every image is rejected when it is read."""
    with pytest.raises(UnsupportedModelError, match="resizes images to 0 x 4 pixels"):
        preprocessing_of("bicubic", 2.0, "center", 1, 8)


def test_image_that_is_too_narrow(tmp_path: Path) -> None:
    """An image that would be resized to zero rows or columns is rejected, and the error names its file."""
    path = tmp_path / "thread.png"
    Image.new("L", (2000, 1)).save(path)
    with pytest.raises(ImageError, match=r"thread.png: an image of 2000 x 1 pixels would be resized to 8 x 0"):
        images.load(path, preprocessing_of("bicubic", 0.9, "border", 8, 8))


def test_digits() -> None:
    """No pixel of an enlarged 8 x 8 grey image differs."""
    from sklearn.datasets import load_digits

    digit = Image.fromarray((load_digits().images[3] * 15.9).astype(np.uint8))
    for interpolation, crop_pct, crop_mode, height, width in registry():
        size = max(1, height // 8), width // 8 + 1
        preprocessing = preprocessing_of(interpolation, crop_pct, crop_mode, *size, channels=1)
        assert max_difference(digit, preprocessing) == 0, preprocessing


@settings(max_examples=120)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(1, 96), st.integers(1, 96)) | st.integers(1, 96).map(lambda edge: (edge, edge)),
    crop_pct=st.floats(0.2, 2.0) | st.sampled_from([0.875, 0.9, 0.95, 1.0]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_with_any_preprocessing(
    size: tuple[int, int],
    target: tuple[int, int],
    crop_pct: float,
    interpolation: str,
    crop_mode: str,
    channels: int,
) -> None:
    """No pixel differs; where timm fails on an image, an ImageError is raised."""
    assume(min(target) / crop_pct >= 1)
    preprocessing = preprocessing_of(interpolation, crop_pct, crop_mode, *target, channels=channels)
    image = photograph("china.jpg").resize(size).convert(images.MODES[channels])
    try:
        expected = timm_transform(preprocessing)(image)
    except ValueError:
        with pytest.raises(ImageError, match="too narrow for the model"):
            images.prepare(image, preprocessing)
    else:
        assert np.array_equal(images.prepare(image, preprocessing), expected)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def files_of_every_kind() -> dict[str, bytes]:
    """Image files of every format, mode and orientation that cameras, scanners and programs write, by name."""
    photo = photograph("flower.jpg").crop((200, 100, 401, 233))
    ramp = np.linspace(0, 65535, 33 * 47).reshape(33, 47)
    sixteen_bit = Image.fromarray(ramp.astype(np.uint16))
    exif = [Image.Exif() for _ in range(9)]
    for orientation, tags in enumerate(exif):
        tags[0x0112] = orientation
    alpha = photo.convert("RGBA")
    alpha.putalpha(photo.convert("L"))
    return {
        **{f"rotated-{number}.jpg": encoded(photo, "JPEG", exif=exif[number]) for number in range(1, 9)},
        "grey.png": encoded(photo.convert("L"), "PNG"),
        "grey-alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "palette.png": encoded(photo.quantize(16), "PNG"),
        "palette-transparent.png": encoded(photo.quantize(16), "PNG", transparency=bytes([0, 99, 200])),
        "animated.gif": encoded(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "bits.png": encoded(photo.convert("1"), "PNG"),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(photo.convert("CMYK"), "TIFF"),
        "lab.tif": encoded(photo.convert("L"), "TIFF"),
        "deep.png": encoded(sixteen_bit, "PNG"),
        "deep.tif": encoded(sixteen_bit, "TIFF"),
        "deep-32.tif": encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        "plain.webp": encoded(photo, "WEBP", lossless=True),
        "plain.bmp": encoded(photo, "BMP"),
        "plain.ppm": encoded(photo, "PPM"),
        "plain.pgm": encoded(photo.convert("L"), "PPM"),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", files_of_every_kind())
def test_files_are_read_as_in_training(tmp_path: Path, name: str, channels: int) -> None:
    """Serving decodes a file to the same pixels as training and evaluation, for every kind of file."""
    path = tmp_path / name
    path.write_bytes(files_of_every_kind()[name])
    preprocessing = preprocessing_of("bicubic", 0.9, "center", 40, 56, channels=channels)
    zoo_preprocessing = ZooPreprocessing(
        input_size=(channels, 40, 56),
        mean=preprocessing.mean,
        std=(0.5,) * channels,
        interpolation="bicubic",
        crop_pct=0.9,
    )
    expected = np.asarray(resize_and_crop(zoo_preprocessing)(read_image(path, channels)), np.uint8).reshape(
        40, 56, channels
    )
    assert np.array_equal(images.load(path, preprocessing), expected)


def test_rotated_files_differ() -> None:
    """The eight EXIF orientations are eight different files of the same size."""
    rotated = {name: content for name, content in files_of_every_kind().items() if name.startswith("rotated")}
    sizes = {Image.open(io.BytesIO(content)).size for content in rotated.values()}
    assert (len(set(rotated.values())), sizes) == (8, {(201, 133)})


@pytest.mark.parametrize("values", [np.full((4, 4), 70000, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_values_of_unknown_range_are_rejected(tmp_path: Path, values: np.ndarray) -> None:
    """zoo and serve reject the file with the same reason."""
    path = tmp_path / "odd.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError) as zoo_error:
        read_image(path, 3)
    reason = str(zoo_error.value).partition(": ")[2]
    with pytest.raises(ImageError, match=f"{path} cannot be read as an image: {reason}"):
        images.load(path, preprocessing_of("bicubic", 0.9, "center", 8, 8))


def test_suffixes_are_those_of_zoo() -> None:
    """Training and serving find the same images in a folder."""
    assert images.SUFFIXES == SUFFIXES
