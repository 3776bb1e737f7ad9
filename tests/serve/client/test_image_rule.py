"""The rule that travels with a model does what timm's evaluation transform does: not one pixel differs.

Every rule that occurs in timm's registry is tried on real photographs, and Hypothesis draws what does not occur.
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
from zoo.data.augmentation import framing
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
    """Every (interpolation, crop_pct, crop_mode, height, width) in timm's registry, those for testing included."""
    found = set()
    for name in timm.list_models(include_tags=True):
        cfg = get_pretrained_cfg(name, allow_unregistered=True)
        for size in (cfg.input_size, cfg.test_input_size):
            for pct in (cfg.crop_pct, cfg.test_crop_pct):
                if size and pct:
                    found.add((cfg.interpolation, pct, cfg.crop_mode, *size[1:]))
    return sorted(found)


def rule_of(interpolation: str, crop_pct: float, crop_mode: str, height: int, width: int, channels: int = 3) -> Any:
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        interpolation=interpolation,  # type: ignore[arg-type]
        crop_pct=crop_pct,
        crop_mode=crop_mode,  # type: ignore[arg-type]
        mean=MEAN if channels == 3 else (0.25,),
    )


def timms(rule: Preprocessing) -> Callable[[Image.Image], Any]:
    """Timm's own evaluation transform for a rule, up to the pixels; gives uint8 (H, W, C)."""
    transform = create_transform(
        (rule.channels, rule.height, rule.width),
        interpolation=rule.interpolation,
        crop_pct=rule.crop_pct,
        crop_mode=rule.crop_mode,
        mean=rule.mean,
        normalize=False,
    )
    return lambda image: transform(image).numpy().transpose(1, 2, 0)


def difference(image: Image.Image, rule: Preprocessing) -> int:
    ours, expected = images.prepare(image, rule), timms(rule)(image)
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    return int(np.abs(ours.astype(int) - expected.astype(int)).max())


def test_the_registry_is_whole() -> None:
    """What is tried below is not empty by mistake: it has all kinds of rule that timm knows today."""
    rules = registry()
    assert len(rules) > 100
    assert {rule[0] for rule in rules} == {"bilinear", "bicubic"}
    assert {rule[2] for rule in rules} == {"center", "squash", "border"}


def test_every_rule_of_timms_registry_on_a_photograph() -> None:
    """Not one pixel differs on a whole photograph."""
    for rule in registry():
        assert difference(photograph("china.jpg"), rule_of(*rule)) == 0, rule


def test_every_rule_of_timms_registry_on_odd_sizes() -> None:
    """Nor on a tall piece of one, of another odd size each time."""
    tall = photograph("flower.jpg").transpose(Image.Transpose.ROTATE_90)
    for index, rule in enumerate(registry()):
        image = tall.crop((100, 50, 201 + index % 5, 351 + index % 7))
        assert difference(image, rule_of(*rule)) == 0, (rule, image.size)


def test_a_rule_that_leaves_nothing() -> None:
    """Where timm would fail on every image, the rule itself is refused."""
    with pytest.raises(UnsupportedModelError, match="resizes images to 0 x 4 pixels"):
        rule_of("bicubic", 2.0, "center", 1, 8)


def test_a_image_that_is_too_thin(tmp_path: Path) -> None:
    """An image of which nothing is left is refused by its file's name."""
    path = tmp_path / "thread.png"
    Image.new("L", (2000, 1)).save(path)
    with pytest.raises(ImageError, match=r"thread.png: an image of 2000 x 1 pixels would be resized to 8 x 0"):
        images.load(path, rule_of("bicubic", 0.9, "border", 8, 8))


def test_digits() -> None:
    """Grey images of 8 x 8 pixels, made larger."""
    from sklearn.datasets import load_digits

    digit = Image.fromarray((load_digits().images[3] * 15.9).astype(np.uint8))
    for interpolation, crop_pct, crop_mode, height, width in registry():
        rule = rule_of(interpolation, crop_pct, crop_mode, max(1, height // 8), width // 8 + 1, channels=1)
        assert difference(digit, rule) == 0, rule


@settings(max_examples=120)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(1, 96), st.integers(1, 96)) | st.integers(1, 96).map(lambda edge: (edge, edge)),
    crop_pct=st.floats(0.2, 2.0) | st.sampled_from([0.875, 0.9, 0.95, 1.0]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_by_any_rule(
    size: tuple[int, int],
    target: tuple[int, int],
    crop_pct: float,
    interpolation: str,
    crop_mode: str,
    channels: int,
) -> None:
    """Not one pixel differs; what cannot be resized is refused here where timm fails."""
    assume(min(target) / crop_pct >= 1)
    rule = rule_of(interpolation, crop_pct, crop_mode, *target, channels=channels)
    image = photograph("china.jpg").resize(size).convert(images.MODES[channels])
    try:
        expected = timms(rule)(image)
    except ValueError:
        with pytest.raises(ImageError, match="too long and too thin"):
            images.prepare(image, rule)
    else:
        assert np.array_equal(images.prepare(image, rule), expected)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def kinds() -> dict[str, bytes]:
    """Files of every kind that cameras, scanners and programs write."""
    photo = photograph("flower.jpg").crop((200, 100, 401, 233))
    ramp = np.linspace(0, 65535, 33 * 47).reshape(33, 47)
    deep = Image.fromarray(ramp.astype(np.uint16))
    exif = [Image.Exif() for _ in range(9)]
    for orientation, each in enumerate(exif):
        each[0x0112] = orientation
    alpha = photo.convert("RGBA")
    alpha.putalpha(photo.convert("L"))
    return {
        **{f"rotated-{number}.jpg": saved(photo, "JPEG", exif=exif[number]) for number in range(1, 9)},
        "grey.png": saved(photo.convert("L"), "PNG"),
        "grey-alpha.png": saved(alpha.convert("LA"), "PNG"),
        "rgba.png": saved(alpha, "PNG"),
        "palette.png": saved(photo.quantize(16), "PNG"),
        "palette-transparent.png": saved(photo.quantize(16), "PNG", transparency=bytes([0, 99, 200])),
        "animated.gif": saved(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "bits.png": saved(photo.convert("1"), "PNG"),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG"),
        "cmyk.tif": saved(photo.convert("CMYK"), "TIFF"),
        "lab.tif": saved(photo.convert("L"), "TIFF"),
        "deep.png": saved(deep, "PNG"),
        "deep.tif": saved(deep, "TIFF"),
        "deep-32.tif": saved(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        "plain.webp": saved(photo, "WEBP", lossless=True),
        "plain.bmp": saved(photo, "BMP"),
        "plain.ppm": saved(photo, "PPM"),
        "plain.pgm": saved(photo.convert("L"), "PPM"),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", kinds())
def test_files_are_read_as_in_training(tmp_path: Path, name: str, channels: int) -> None:
    """What a served model gets of a file is what it was trained and evaluated on, whatever kind of file it is."""
    path = tmp_path / name
    path.write_bytes(kinds()[name])
    rule = rule_of("bicubic", 0.9, "center", 40, 56, channels=channels)
    zoos = ZooPreprocessing(
        input_size=(channels, 40, 56), mean=rule.mean, std=(0.5,) * channels, interpolation="bicubic", crop_pct=0.9
    )
    expected = np.asarray(framing(zoos)(read_image(path, channels)), np.uint8).reshape(40, 56, channels)
    assert np.array_equal(images.load(path, rule), expected)


def test_kinds_differ() -> None:
    """The rotated files are really rotated: eight ways to hold a camera give eight different files and one image."""
    turned = {name: content for name, content in kinds().items() if name.startswith("rotated")}
    sizes = {Image.open(io.BytesIO(content)).size for content in turned.values()}
    assert (len(set(turned.values())), sizes) == (8, {(201, 133)})


@pytest.mark.parametrize("values", [np.full((4, 4), 70000, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_numbers_of_unknown_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    """By zoo and by serve alike, for the same reason."""
    path = tmp_path / "odd.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError) as zoos:
        read_image(path, 3)
    reason = str(zoos.value).partition(": ")[2]
    with pytest.raises(ImageError, match=f"{path} cannot be read as an image: {reason}"):
        images.load(path, rule_of("bicubic", 0.9, "center", 8, 8))


def test_the_same_files_are_images() -> None:
    """A folder holds the same images for training and for asking a server."""
    assert images.SUFFIXES == SUFFIXES
