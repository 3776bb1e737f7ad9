"""What a model promises to whoever asks it: tensors by name, labels, and how pictures become inputs.

Requires: an interface, and what a net gave for its telling inputs.
Ensures: every tensor has the batch first, and a datatype that a server knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.errors import UnfitNetError
from export.interface import Interface, Pictures
from protos import manifest
from zoo.preprocessing import Preprocessing

DATATYPES = {
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Contract:
    """A shape has -1 where it is free. `preprocessing` is None for a model that takes no pictures.

    Of a `multi_label` model each label of a picture has a probability of its own.
    """

    inputs: Sequence[manifest.Tensor]
    outputs: Sequence[manifest.Tensor]
    labels: Sequence[str]
    preprocessing: manifest.Preprocessing | None
    multi_label: bool = False


def contract_of(interface: Interface, given: Mapping[str, Tensor], labels: Sequence[str]) -> Contract:
    """Return the contract of a file that gives `given` for the interface's telling inputs. Raises: UnfitNetError."""
    taken = {interface.input_name: torch.from_numpy(interface.telling())}
    if not isinstance(interface, Pictures):
        return Contract(_tensors(taken), _tensors(given), labels, None)
    rule, multi_label = message_of(interface.preprocessing), interface.head.activation == "sigmoid"
    return Contract(_tensors(taken), _tensors(given), labels, rule, multi_label)


def message_of(rule: Preprocessing) -> manifest.Preprocessing:
    channels, height, width = rule.input_size
    return manifest.Preprocessing(
        channels=channels,
        height=height,
        width=width,
        interpolation=rule.interpolation,
        crop_pct=rule.crop_pct,
        crop_mode=rule.crop_mode,
        mean=rule.mean,
        std=rule.std,
    )


def _tensors(named: Mapping[str, Tensor]) -> Sequence[manifest.Tensor]:
    return [
        manifest.Tensor(name=name, datatype=_datatype(name, tensor), shape=[-1, *tensor.shape[1:]])
        for name, tensor in named.items()
    ]


def _datatype(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in DATATYPES:
        known = ", ".join(str(each).removeprefix("torch.") for each in DATATYPES)
        raise UnfitNetError(f"the net's output '{name}' is {tensor.dtype}, which no client can take: give {known}.")
    return DATATYPES[tensor.dtype]
