"""Pretrained weights, by timm's own loading: a hub, its cache, a folder or a file. Every tensor must find its place.

timm loads loosely when the number of classes differs, and would then take the weights of any network. So a network is built
with as many classes as its weights have, loaded strictly, and given a new classifier afterwards.
"""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from zoo.errors import CheckpointError, SettingsError
from zoo.networks.timm_config import classes_of, config_of
from zoo.storage.hub import offline_fallback

LOADING_ERRORS = (RuntimeError, OSError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError)
OFFLINE_HINT = (
    "without a network, fill the cache on another machine and copy it (HF_HOME says where; HF_HUB_OFFLINE=1 then keeps "
    "off the network), or give a file of weights (--pretrained-file)"
)


@dataclass(frozen=True)
class Origin:
    """Where pretrained weights come from; `licence` is empty where nobody says."""

    licence: str
    url: str


def build_pretrained(
    build: Callable[..., nn.Module], name: str, arguments: dict[str, Any], num_classes: int | None, file: Path | None
) -> nn.Module:
    """Build a network with its pretrained weights, or those of `file`; another number of classes gets a new classifier.

    Raises:
        CheckpointError: there are none, they cannot be read, or they are of another network.
    """
    network = _from_source(build, name, arguments) if file is None else _from_file(build, name, arguments, file)
    if num_classes is not None and num_classes != classes_of(network):
        reset: Any = network.reset_classifier
        reset(num_classes)
    return network


def origin_of(network: nn.Module, file: Path | None) -> Origin:
    """Where the weights of a network from `build_pretrained` come from, without any path of this machine."""
    if file is not None:
        with file.open("rb") as content:
            return Origin("", f"file:{file.name}#sha256={hashlib.file_digest(content, 'sha256').hexdigest()}")
    cfg = config_of(network)
    if cfg.get("source") == "local-dir":
        return Origin(cfg.get("license") or "", f"local-dir:{Path(cfg['file']).name}")
    hub = cfg.get("hf_hub_id")
    return Origin(cfg.get("license") or "", f"hf-hub:{hub}" if hub else cfg.get("url") or "")


def _from_source(build: Callable[..., nn.Module], name: str, arguments: dict[str, Any]) -> nn.Module:
    if not _has_weights(name):
        raise CheckpointError(
            f"nobody publishes pretrained weights of '{name}': train it and go on from that run's folder, "
            "or give a file of weights (--pretrained-file)"
        )
    try:
        with offline_fallback():
            return build(pretrained=True, **arguments)
    except SettingsError:
        raise
    except LOADING_ERRORS as error:
        hint = "" if name.startswith("local-dir:") else f"; {OFFLINE_HINT}"
        raise CheckpointError(f"the pretrained weights of '{name}' cannot be loaded: {_gist(error)}{hint}") from error


def _from_file(build: Callable[..., nn.Module], name: str, arguments: dict[str, Any], file: Path) -> nn.Module:
    weights = _read(file)
    overlay = {"state_dict": weights, "source": "", **_classes_in(weights, name)}
    given = arguments | {key: value for key, value in overlay.items() if key == "num_classes"}
    try:
        network = build(pretrained=True, pretrained_cfg_overlay=overlay, **given)
    except SettingsError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"the weights {file} are not those of the network '{name}': {_gist(error)}") from error
    del config_of(network)["state_dict"]
    return network


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"there is no file {file} of pretrained weights")
    try:
        weights = load_state_dict(str(file))  # of pickles, nothing but tensors is read
    except (*LOADING_ERRORS, AttributeError, TypeError) as error:
        raise CheckpointError(f"the weights {file} cannot be read: {_gist(error)}") from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{file} holds no state dict: it should map names to tensors")
    return dict(weights)


def _classes_in(weights: dict[str, Tensor], name: str) -> dict[str, int]:
    """The number of classes that the weights' own classifier tells apart, if it has the name that timm notes."""
    cfg = timm.get_pretrained_cfg(name)
    classifiers = (cfg.classifier if cfg else None) or ()
    first = classifiers if isinstance(classifiers, str) else next(iter(classifiers), "")
    weight = weights.get(f"{first}.weight")
    return {} if weight is None else {"num_classes": len(weight)}


def _has_weights(name: str) -> bool:
    cfg = None if name.startswith(("hf-hub:", "local-dir:")) else timm.get_pretrained_cfg(name)
    return cfg is None or bool(cfg.has_weights)


def _gist(error: BaseException) -> str:
    """The first two lines of a message, as one; tools answer with pages."""
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, and its cache on this machine does not hold them"
    if "weights_only" in str(error):
        return "it holds Python objects, which could run code; save the network's state_dict(), nothing but tensors"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".;: ") or type(error).__name__
