"""Image files as the input of a model whose preprocessing is known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protos.keys import PREPROCESSING_KEY
from serve.client.model_info import ModelInfo
from serve.client.preprocessing import Preprocessing
from serve.errors import UnsupportedModelError
from serve.wire.tensors import Array


def image_preprocessing(info: ModelInfo) -> Preprocessing:
    """Return the preprocessing of a model that accepts images.

    Raises:
        UnsupportedModelError: The model defines no preprocessing, or its input is not one batch of such images.
    """
    preprocessing = info.preprocessing
    if preprocessing is None:
        raise UnsupportedModelError(
            f"model '{info.name}' does not define its preprocessing: its config.pbtxt lacks the parameter "
            f"{PREPROCESSING_KEY}, which 'zoonnx export' writes unless --raw is set. Call Client.infer with arrays "
            "instead."
        )
    fixed = (-1, preprocessing.height, preprocessing.width, preprocessing.channels)
    dynamic = (-1, -1, -1, preprocessing.channels)
    if [(spec.datatype, spec.shape) for spec in info.inputs] not in ([("UINT8", fixed)], [("UINT8", dynamic)]):
        raise UnsupportedModelError(
            f"model '{info.name}' does not accept images as one UINT8 input of shape {list(fixed)}."
        )
    return preprocessing


def image_inputs(info: ModelInfo, files: Sequence[Path]) -> dict[str, Array]:
    """Return the model's input for image files: uint8, (N, H, W, C), by the input's name.

    Raises:
        UnsupportedModelError: The model does not accept images, or does not define their preprocessing.
        ImageError: A file is not an image.
    """
    from serve.client import images

    preprocessing = image_preprocessing(info)
    return {info.inputs[0].name: np.stack([images.load(file, preprocessing) for file in files])}
