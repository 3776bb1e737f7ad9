"""Random changes to training pictures, drawn from torch's own generator, which training seeds at every step."""

import torch
from torch import Tensor
from torchvision.transforms import v2


def shift(images: Tensor, max_shift_px: int) -> Tensor:
    """Move each of the uint8 (N, H, W, C) images by its own random -max_shift_px..max_shift_px pixels, down and right.

    What moves in is 0. An axis of length 1 stays: a signal, an image of height 1, moves along its length only.
    """
    if max_shift_px == 0:
        return images
    _, height, width, _ = images.shape
    padding = [max_shift_px if length > 1 else 0 for length in (width, height)]
    crop = v2.RandomCrop((height, width), padding=padding)
    channels_first = images.permute(0, 3, 1, 2)  # (N, C, H, W)
    return torch.stack([crop(image) for image in channels_first]).permute(0, 2, 3, 1)  # (N, H, W, C)
