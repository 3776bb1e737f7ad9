"""A cache of backbone features, so that a head can be trained without running the backbone again.

Features are stored beside the runs, in `.features/KEY.safetensors`; KEY is a hash of the images, their preprocessing
and every value of the backbone. Images are preprocessed as for evaluation, so augmentation is not possible.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.splits import MemorySplit, Split
from zoo.evaluation.evaluate import batch_size_for
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import SplitName
from zoo.storage.atomic_io import write_file
from zoo.transfer.heads import HeadedNetwork

FEATURES_VERSION = 2  # part of each key; raise it when the computation of features changes


@dataclass(frozen=True)
class IdentityTransform:
    """An input conversion that leaves features unchanged.

    Attributes:
        input_size: Shape of one image's features, (C) or (C, H, W).
    """

    input_size: tuple[int, ...]

    def normalise(self, images: Tensor) -> Tensor:
        return images


def cached_features(network: HeadedNetwork, data: Dataset, cache: Path) -> tuple[Dataset, IdentityTransform]:
    """Replace the images of a dataset by the backbone's features, read from `cache` or computed and stored there."""
    splits = {
        name: _feature_split(network, data.split(name), data.preprocessing, cache) for name in get_args(SplitName)
    }
    size = tuple(splits["train"].images.shape[1:])
    return replace(data, train=splits["train"], val=splits["val"], test=splits["test"]), IdentityTransform(size)


def _feature_split(network: HeadedNetwork, split: Split, preprocessing: Preprocessing, cache: Path) -> MemorySplit:
    file = cache / f"{_key(network, split, preprocessing)}.safetensors"
    features = _load(file)
    if features is None:
        features = _compute(network, split, preprocessing)
        cache.mkdir(parents=True, exist_ok=True)
        write_file(file, safetensors.torch.save({"features": features}))
    return MemorySplit(features, split.targets)


def _load(file: Path) -> Tensor | None:
    """Return the stored features; None if the file is missing or damaged."""
    try:
        return safetensors.torch.load_file(file).get("features")
    except (OSError, SafetensorError):
        return None


def _compute(network: HeadedNetwork, split: Split, preprocessing: Preprocessing) -> Tensor:
    """Return the head's input for every image: (N, C), or (N, C, H, W) for a head on feature maps."""
    device = next(network.parameters()).device
    index_batches = torch.split(torch.arange(len(split)), batch_size_for(preprocessing.input_size))
    batches = []
    network.eval()
    with torch.no_grad():
        for images in split.batches(index_batches):
            features = network.forward_features(preprocessing.normalise(images.to(device)))
            batches.append(network.forward_head(features, pre_logits=True).cpu())
    return torch.cat(batches).contiguous()


def _key(network: HeadedNetwork, split: Split, preprocessing: Preprocessing) -> str:
    options = f"{network.on_map} {network.cut_after} {json.dumps(preprocessing.to_json())}"
    digest = hashlib.sha256(f"{FEATURES_VERSION} {options} {split.key()}".encode())
    for name, value in network.backbone.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
