"""A head trained on features that are computed once, stored, and used again while data and backbone stay the same.

Features lie beside the runs, in `.features/KEY.safetensors`; KEY is a hash of the images, of how they are prepared
and of every number of the backbone. Each image is seen as an evaluation sees it, so no augmentation is possible.
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

from zoo.data.registry import Dataset
from zoo.data.splits import MemorySplit, Split
from zoo.evaluation.evaluate import batch_size_for
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import SplitName
from zoo.storage.atomic_io import write_file
from zoo.transfer.heads import HeadedNet

FEATURES_VERSION = 2  # part of each key: raise it when features are computed otherwise


@dataclass(frozen=True)
class FeatureRule:
    """What a head expects of its features: nothing but their size, (C) or (C, H, W)."""

    input_size: tuple[int, ...]

    def normalise(self, images: Tensor) -> Tensor:
        return images


def features_of(network: HeadedNet, data: Dataset, cache: Path) -> tuple[Dataset, FeatureRule]:
    """The same data with the backbone's features in place of images, from `cache` where they are known there."""
    splits = {name: _features(network, data.split(name), data.preprocessing, cache) for name in get_args(SplitName)}
    size = tuple(splits["train"].images.shape[1:])
    return replace(data, train=splits["train"], val=splits["val"], test=splits["test"]), FeatureRule(size)


def _features(network: HeadedNet, split: Split, rule: Preprocessing, cache: Path) -> MemorySplit:
    file = cache / f"{_key(network, split, rule)}.safetensors"
    features = _stored(file)
    if features is None:
        features = _compute(network, split, rule)
        cache.mkdir(parents=True, exist_ok=True)
        write_file(file, safetensors.torch.save({"features": features}))
    return MemorySplit(features, split.targets)


def _stored(file: Path) -> Tensor | None:
    """Features that are there and whole."""
    try:
        return safetensors.torch.load_file(file).get("features")
    except (OSError, SafetensorError):
        return None


def _compute(network: HeadedNet, split: Split, rule: Preprocessing) -> Tensor:
    """What the head gets of each image: (N, C), or (N, C, H, W) for a head that looks at maps."""
    device = next(network.parameters()).device
    chosen = torch.split(torch.arange(len(split)), batch_size_for(rule.input_size))
    network.eval()
    with torch.no_grad():
        parts = [
            network.forward_head(network.forward_features(rule.normalise(images.to(device))), pre_logits=True).cpu()
            for images in split.batches(chosen)
        ]
    return torch.cat(parts).contiguous()


def _key(network: HeadedNet, split: Split, rule: Preprocessing) -> str:
    digest = hashlib.sha256(
        f"{FEATURES_VERSION} {network.of_map} {network.cut_after} {json.dumps(rule.to_json())} {split.key()}".encode()
    )
    for name, value in network.backbone.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
