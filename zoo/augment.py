"""Random changes to training pictures, drawn from torch's own generator, which training seeds at every step."""

import torch
from torch import Tensor
from torchvision.transforms import v2


def shift(images: Tensor, max_shift_px: int) -> Tensor:
    """Move each of the uint8 (N, H, W, C) images by its own random -max_shift_px..max_shift_px pixels, down and right.

    What moves in is 0.
    """
    if max_shift_px == 0:
        return images
    _, height, width, _ = images.shape
    crop = v2.RandomCrop((height, width), padding=max_shift_px)
    channels_first = images.permute(0, 3, 1, 2)  # (N, C, H, W)
    return torch.stack([crop(image) for image in channels_first]).permute(0, 2, 3, 1)  # (N, H, W, C)
