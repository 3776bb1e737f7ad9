"""Inputs by name become the arguments of a network's forward."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from export.errors import SettingsError
from export.interface.forward_call import forward_call, require_one_input


def network(forward: Callable[..., Any]) -> nn.Module:
    """Return a network with another forward."""
    module = nn.Identity()
    module.forward = forward  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    ("forward", "names", "args", "kwargs"),
    [
        (lambda image, mask: 0, ["mask", "image"], ("image", "mask"), {}),
        (lambda x, mask=None, scale=2.0: 0, ["x"], ("x",), {}),
        (lambda x, mask=None, scale=2.0: 0, ["scale", "x"], ("x",), {"scale": "scale"}),
        (lambda x, *, scale: 0, ["x", "scale"], ("x",), {"scale": "scale"}),
        (lambda x, /, y: 0, ["y", "x"], ("x", "y"), {}),
        (lambda batch: 0, ["batch.a", "batch.b"], ({"a": "batch.a", "b": "batch.b"},), {}),
        (lambda pair, x: 0, ["x", "pair.1", "pair.0"], (("pair.0", "pair.1"), "x"), {}),
        (lambda **inputs: 0, ["a", "b.0"], (), {"a": "a", "b": ("b.0",)}),
        (lambda batch: 0, ["batch.a.0", "batch.a.1"], ({"a": ("batch.a.0", "batch.a.1")},), {}),
    ],
)
def test_call(forward: Callable[..., Any], names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tensors are passed by position where possible; paths with dots become dicts and tuples."""
    call = forward_call(network(forward), names)
    assert (call.args, call.kwargs) == (args, kwargs)
    assert sorted(call.leaves) == sorted(names)


@pytest.mark.parametrize(
    ("forward", "names", "message"),
    [
        (
            lambda image, mask=None: 0,
            ["imag"],
            r"no argument 'imag'; it has image, mask \(optional\): did you mean 'image'",
        ),
        (
            lambda image, mask, k=1: 0,
            ["image"],
            r"also needs 'mask'; .* image, mask, k \(optional\): add --input mask=",
        ),
        (lambda x, *, scale: 0, ["x"], "also needs 'scale'"),
        (lambda *images: 0, ["images"], r"no argument 'images'; it has \*images"),
        (lambda batch: 0, ["batch", "batch.a"], "'batch' is an input, so that 'batch.a' cannot be part of it"),
        (lambda batch: 0, ["batch.a", "batch"], "'batch' cannot be an input, because another input is part of it"),
    ],
)
def test_mistakes(forward: Callable[..., Any], names: list[str], message: str) -> None:
    """The error names the arguments that the forward has."""
    with pytest.raises(SettingsError, match=message):
        forward_call(network(forward), names)


def test_one_input() -> None:
    """A network that cannot be called with one tensor needs --input; one with further optional arguments does not."""
    for forward in (lambda x: 0, lambda x, mask=None: 0, lambda *xs: 0):
        require_one_input(network(forward))
    for forward in (lambda image, mask: 0, lambda *, image: 0):
        with pytest.raises(SettingsError, match="--raw and the shape of each input, --input image=SHAPE"):
            require_one_input(network(forward))
