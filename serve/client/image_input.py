"""Image files as the input of a model that says how it wants them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serve.client.model_info import ModelInfo
from serve.client.preprocessing import PARAMETER, Preprocessing
from serve.errors import UnsupportedModelError
from serve.wire.tensors import Array


def image_rule(info: ModelInfo) -> Preprocessing:
    """Return how images for the model are prepared.

    Raises:
        UnsupportedModelError: it does not say, or it takes no images.
    """
    rule = info.preprocessing
    if rule is None:
        raise UnsupportedModelError(
            f"model '{info.name}' does not say how to prepare images: its config.pbtxt lacks the parameter "
            f"{PARAMETER}, which 'zoonnx export' writes unless --raw is given. Ask it by Client.infer with arrays."
        )
    shape, any_size = (-1, rule.height, rule.width, rule.channels), (-1, -1, -1, rule.channels)
    taken = [(each.datatype, each.shape) for each in info.inputs]
    if taken not in ([("UINT8", shape)], [("UINT8", any_size)]):
        raise UnsupportedModelError(
            f"model '{info.name}' does not take images as one UINT8 input of shape {list(shape)}."
        )
    return rule


def model_input(info: ModelInfo, files: Sequence[Path]) -> dict[str, Array]:
    """Return the model's input for image files, one a row.

    Raises:
        UnsupportedModelError: the model does not say how to prepare images.
        ImageError: a file is not an image.
    """
    from serve.client import images

    rule = image_rule(info)
    return {info.inputs[0].name: np.stack([images.load(file, rule) for file in files])}
