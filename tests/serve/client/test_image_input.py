"""Images go to models that take them, of the rule's own size or of any."""

import pytest

from serve.client.image_input import image_rule
from serve.client.model_info import ModelInfo
from serve.client.preprocessing import Preprocessing
from serve.errors import UnsupportedModelError
from serve.wire.tensors import TensorSpec

RULE = Preprocessing(channels=3, height=24, width=32)


def info(shape: tuple[int, ...], datatype: str = "UINT8") -> ModelInfo:
    return ModelInfo("m", "1", (TensorSpec("image", datatype, shape),), (), 8, (), RULE)


@pytest.mark.parametrize("shape", [(-1, 24, 32, 3), (-1, -1, -1, 3)])
def test_models_that_take_images(shape: tuple[int, ...]) -> None:
    """The input has the rule's size, or leaves it free: images have the rule's either way."""
    assert image_rule(info(shape)) is RULE


@pytest.mark.parametrize(
    ("shape", "datatype"),
    [((-1, 32, 24, 3), "UINT8"), ((-1, -1, -1, 1), "UINT8"), ((-1, -1, 32, 3), "UINT8"), ((-1, -1, -1, 3), "FP32")],
)
def test_models_that_do_not(shape: tuple[int, ...], datatype: str) -> None:
    """Another size, other channels or another datatype is no input for images."""
    with pytest.raises(UnsupportedModelError, match="does not take images as one UINT8 input"):
        image_rule(info(shape, datatype))
