"""Descriptions of inputs, as text and as objects."""

import pytest

from export.errors import SettingsError
from export.input_spec import InputSpec, parse_inputs, require_valid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image=3,224,224", InputSpec((3, 224, 224))),
        ("mask=1,8,8:0..1", InputSpec((1, 8, 8), "float32", (0, 1))),
        ("tokens=16:int64:0..29999", InputSpec((16,), "int64", (0, 29999))),
        ("batch.flag=:bool", InputSpec((), "bool")),
        ("scale=", InputSpec(())),
        ("step=:float32:-1.5..2e3", InputSpec((), "float32", (-1.5, 2000))),
    ],
)
def test_text(text: str, expected: InputSpec) -> None:
    """An input is its name, its shape without the batch, and optionally its datatype and its limits."""
    name = text.partition("=")[0]
    assert parse_inputs([text]) == {name: expected}
    assert parse_inputs([f"{name}={expected}"])[name].bounds == expected.bounds


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["image"], "--input must be NAME=SHAPE"),
        (["image=3,x"], "--input must be NAME=SHAPE.* got 'image=3,x'"),
        (["image=3:0..1..2"], "--input must be NAME=SHAPE"),
        (["image=3:int64:bool"], "--input must be NAME=SHAPE"),
        (["image=3:float16"], "--input image=3:float16: an input's dtype must be one of float32, int64, int32"),
        (["image=3,0"], "--input image=3,0: the shape of an input must be a tuple of whole numbers"),
        (["image=3:1..0"], "two numbers from .*, the smaller one first; got 1..0"),
        (["image=3:int32:0.5..1"], "the limits of int32 values must be two whole numbers from -2147483648 to"),
        (["image=3:uint8:0..256"], "whole numbers from 0 to 255"),
        (["image=3:nan..1"], "the limits of float32 values must be two numbers"),
        (["image=3", "image=4"], "--input names 'image' twice"),
    ],
)
def test_mistakes(texts: list[str], message: str) -> None:
    """A mistake is named with the text that contains it."""
    with pytest.raises(SettingsError, match=message):
        parse_inputs(texts)


def test_names() -> None:
    """A name is an argument, or the path of a tensor inside one."""
    require_valid(dict.fromkeys(["image", "batch.image", "pair.0", "_x1"], InputSpec((3,))))
    for name in ("", "a/b", "a..b", "0", "a b", "ä"):
        with pytest.raises(SettingsError, match="cannot be the name of an input"):
            require_valid({name: InputSpec((3,))})


def test_objects() -> None:
    """A description in Python that is no InputSpec, or has no tuple as its shape, is rejected."""
    with pytest.raises(SettingsError, match=r"'image' must be an InputSpec, .* got \(3, 8, 8\)"):
        require_valid({"image": (3, 8, 8)})  # type: ignore[dict-item]
    for shape in (16, [3, 8], (3, 0), (3.5,)):
        with pytest.raises(SettingsError, match="must be a tuple of whole numbers, each 1 or more"):
            InputSpec(shape)  # type: ignore[arg-type]
