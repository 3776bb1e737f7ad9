"""Pretrained weights, loaded by timm from a hub, its cache, a folder or a file. Every tensor must match.

timm loads non-strictly when the number of classes differs, and would then accept the weights of any network. Therefore
a network is built with as many classes as its weights have, loaded strictly, and gets a new classifier afterwards.
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
    "without a network connection, fill the cache on another machine and copy it (to HF_HOME; HF_HUB_OFFLINE=1 then "
    "prevents network access), or pass a file of weights (--pretrained-file)"
)


@dataclass(frozen=True)
class Origin:
    """The origin of pretrained weights.

    Attributes:
        licence: SPDX identifier or other short name; "" if unknown.
        url: `hf-hub:OWNER/NAME`, `local-dir:NAME`, `file:NAME#sha256=HASH` or an address; "" if unknown.
    """

    licence: str
    url: str


def build_pretrained(
    build: Callable[..., nn.Module], name: str, arguments: dict[str, Any], num_classes: int | None, file: Path | None
) -> nn.Module:
    """Build a network with its published weights, or those of `file`; the classifier is new if `num_classes` differs.

    Raises:
        CheckpointError: the weights do not exist, cannot be read, or belong to another network.
    """
    network = _from_source(build, name, arguments) if file is None else _from_file(build, name, arguments, file)
    if num_classes is not None and num_classes != classes_of(network):
        reset: Any = network.reset_classifier
        reset(num_classes)
    return network


def origin_of(network: nn.Module, file: Path | None) -> Origin:
    """Return the origin of a network's weights, after `build_pretrained`, without paths of this machine."""
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
            f"no pretrained weights are published for '{name}': train it and start from that run's folder, "
            "or pass a file of weights (--pretrained-file)"
        )
    try:
        with offline_fallback():
            return build(pretrained=True, **arguments)
    except SettingsError:
        raise
    except LOADING_ERRORS as error:
        hint = "" if name.startswith("local-dir:") else f"; {OFFLINE_HINT}"
        raise CheckpointError(
            f"the pretrained weights of '{name}' cannot be loaded: {_summary(error)}{hint}"
        ) from error


def _from_file(build: Callable[..., nn.Module], name: str, arguments: dict[str, Any], file: Path) -> nn.Module:
    weights = _read(file)
    classes = _classes_in(weights, name)
    overlay = {"state_dict": weights, "source": "", **classes}
    try:
        network = build(pretrained=True, pretrained_cfg_overlay=overlay, **arguments | classes)
    except SettingsError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"the weights {file} do not fit network '{name}': {_summary(error)}") from error
    del config_of(network)["state_dict"]
    return network


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"there is no file {file} of pretrained weights")
    try:
        weights = load_state_dict(str(file))  # reads only tensors from a pickle
    except (*LOADING_ERRORS, AttributeError, TypeError) as error:
        raise CheckpointError(f"the weights {file} cannot be read: {_summary(error)}") from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{file} is not a state dict, which maps names to tensors")
    return dict(weights)


def _classes_in(weights: dict[str, Tensor], name: str) -> dict[str, int]:
    """Return `num_classes` of the weights' classifier, or nothing if it does not have the name in timm's config."""
    cfg = timm.get_pretrained_cfg(name)
    classifiers = (cfg.classifier if cfg else None) or ()
    first = classifiers if isinstance(classifiers, str) else next(iter(classifiers), "")
    weight = weights.get(f"{first}.weight")
    return {} if weight is None else {"num_classes": len(weight)}


def _has_weights(name: str) -> bool:
    cfg = None if name.startswith(("hf-hub:", "local-dir:")) else timm.get_pretrained_cfg(name)
    return cfg is None or bool(cfg.has_weights)


def _summary(error: BaseException) -> str:
    """Return the first two lines of a message as one line, since libraries' messages can be very long."""
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, and its cache on this machine does not hold them"
    if "weights_only" in str(error):
        return "it holds Python objects, which could run code; save only the network's state_dict()"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".;: ") or type(error).__name__
