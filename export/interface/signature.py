"""What a model promises to whoever asks it: tensors by name, labels, and how images become inputs.

Requires: an interface, and what a network gave for its telling inputs.
Ensures: every tensor has the batch first, and a datatype that a server knows; what depends on the input's size is free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.errors import UnsupportedNetworkError
from export.interface.interface import ImageInterface, Interface
from export.names import LOGITS
from protos import manifest
from zoo.networks.preprocessing import Preprocessing

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
    """A shape has -1 where it is free. `preprocessing` is None for a model that takes no images.

    Of a `multi_label` model each label of an image has a probability of its own.
    """

    inputs: Sequence[manifest.Tensor]
    outputs: Sequence[manifest.Tensor]
    labels: Sequence[str]
    preprocessing: manifest.Preprocessing | None
    multi_label: bool = False


def contract_of(interface: Interface, given: Sequence[Mapping[str, Tensor]], labels: Sequence[str]) -> Contract:
    """Return the contract of a file that gives `given` for the interface's telling inputs, at each of its sizes.

    Raises: UnsupportedNetworkError.
    """
    there = (interface.at(*size) for size in interface.sizes)
    taken = [{interface.input_name: torch.from_numpy(each.telling())} for each in there]
    if not isinstance(interface, ImageInterface):
        _require_other_names(interface.input_name, given[0])
        return Contract(_tensors(taken), _tensors(given), labels, None)
    _require_fixed_classes(given)
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


def _require_other_names(taken: str, given: Mapping[str, Tensor]) -> None:
    if taken in given:
        raise UnsupportedNetworkError(
            f"the network's output '{taken}' would have the name of the model's input, which no file can hold: rename it."
        )
    for name in given:
        if not name.isprintable():
            raise UnsupportedNetworkError(
                f"the network's output {name!r} has a name that no client can write: rename it."
            )


def _require_fixed_classes(given: Sequence[Mapping[str, Tensor]]) -> None:
    counts = [outputs[LOGITS].shape[1] for outputs in given]
    if len(set(counts)) > 1:
        raise UnsupportedNetworkError(
            f"the input's height and width cannot be free: at {len(counts)} sizes the network gives "
            f"{' and '.join(map(str, counts))} logits."
        )


def _tensors(at_each_size: Sequence[Mapping[str, Tensor]]) -> Sequence[manifest.Tensor]:
    """Describe the tensors; `at_each_size` has the same ones for inputs of each size."""
    kinds = {tuple((name, tensor.ndim) for name, tensor in named.items()) for named in at_each_size}
    if len(kinds) > 1:
        raise UnsupportedNetworkError(
            "the input's height and width cannot be free: the network gives other tensors at other sizes."
        )
    return [
        manifest.Tensor(name=name, datatype=_datatype(name, tensor), shape=[-1, *_sizes(name, at_each_size)])
        for name, tensor in at_each_size[0].items()
    ]


def _sizes(name: str, at_each_size: Sequence[Mapping[str, Tensor]]) -> list[int]:
    shapes = [named[name].shape[1:] for named in at_each_size]
    return [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True)]


def _datatype(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in DATATYPES:
        known = ", ".join(str(each).removeprefix("torch.") for each in DATATYPES)
        raise UnsupportedNetworkError(
            f"the network's output '{name}' is {tensor.dtype}, which no client can take: give {known}."
        )
    return DATATYPES[tensor.dtype]
