"""Which models accept images: fixed and dynamic sizes, channels and datatypes."""

import pytest

from serve.client.image_input import image_preprocessing
from serve.client.model_info import ModelInfo
from serve.client.preprocessing import Preprocessing
from serve.errors import UnsupportedModelError
from serve.wire.tensors import TensorSpec

PREPROCESSING = Preprocessing(channels=3, height=24, width=32)


def info(shape: tuple[int, ...], datatype: str = "UINT8") -> ModelInfo:
    return ModelInfo("m", "1", (TensorSpec("image", datatype, shape),), (), 8, (), PREPROCESSING)


@pytest.mark.parametrize("shape", [(-1, 24, 32, 3), (-1, -1, -1, 3)])
def test_models_that_accept_images(shape: tuple[int, ...]) -> None:
    """The input has the size of the preprocessing, or dynamic sizes."""
    assert image_preprocessing(info(shape)) is PREPROCESSING


@pytest.mark.parametrize(
    ("shape", "datatype"),
    [((-1, 32, 24, 3), "UINT8"), ((-1, -1, -1, 1), "UINT8"), ((-1, -1, 32, 3), "UINT8"), ((-1, -1, -1, 3), "FP32")],
)
def test_models_that_do_not_accept_images(shape: tuple[int, ...], datatype: str) -> None:
    """An input of another size, number of channels or datatype is rejected."""
    with pytest.raises(UnsupportedModelError, match="does not accept images as one UINT8 input"):
        image_preprocessing(info(shape, datatype))
