"""The signature of a model: its tensors by name, its labels, and its image preprocessing.

Requires: an interface, and the network's outputs for its probe inputs at each size.
Ensures: the first dimension of every tensor is the batch; a server supports its datatype; dimensions that depend on the
input's size are dynamic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.errors import UnsupportedNetworkError
from export.interface.interface import ImageInterface, Interface, RawInterface
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
class Signature:
    """The tensors, labels and preprocessing of a model.

    Attributes:
        inputs: The input tensors; a dimension of -1 is dynamic.
        outputs: The output tensors.
        labels: The class names, in the order of the logits; may be empty.
        preprocessing: None for a model that does not accept images.
        multi_label: Whether an image may have several labels, with independent probabilities.
    """

    inputs: Sequence[manifest.Tensor]
    outputs: Sequence[manifest.Tensor]
    labels: Sequence[str]
    preprocessing: manifest.Preprocessing | None
    multi_label: bool = False


def signature_of(
    interface: Interface, outputs_per_size: Sequence[Mapping[str, Tensor]], labels: Sequence[str]
) -> Signature:
    """Return the signature of the model; `outputs_per_size` are its outputs for the probe inputs of each size.

    Raises: UnsupportedNetworkError.
    """
    probes = (interface.at(*size).probe_inputs() for size in interface.sizes)
    inputs = _describe([{name: torch.from_numpy(array) for name, array in arrays.items()} for arrays in probes])
    if not isinstance(interface, ImageInterface):
        _require_valid_names(interface.network_inputs, outputs_per_size[0])
        _add_limits(inputs, interface)
        return Signature(inputs, _describe(outputs_per_size), labels, None)
    _require_fixed_classes(outputs_per_size)
    preprocessing = preprocessing_message(interface.preprocessing)
    multi_label = interface.head.activation == "sigmoid"
    return Signature(inputs, _describe(outputs_per_size), labels, preprocessing, multi_label)


def preprocessing_message(preprocessing: Preprocessing) -> manifest.Preprocessing:
    """Return `preprocessing` as the message that the manifest holds."""
    channels, height, width = preprocessing.input_size
    return manifest.Preprocessing(
        channels=channels,
        height=height,
        width=width,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )


def _add_limits(tensors: Sequence[manifest.Tensor], interface: Interface) -> None:
    """Write into the description of each input the limits of the values with which the model is compared."""
    inputs = interface.inputs if isinstance(interface, RawInterface) else {}
    for tensor in tensors:
        bounds = inputs[tensor.name].bounds if tensor.name in inputs else None
        if bounds:
            tensor.limits.low, tensor.limits.high = bounds


def _require_valid_names(inputs: Sequence[str], outputs: Mapping[str, Tensor]) -> None:
    for name in outputs:
        if name in inputs:
            raise UnsupportedNetworkError(
                f"the network's output '{name}' has the name of the model's input, which ONNX does not allow: "
                "rename it."
            )
        if not name.isprintable():
            raise UnsupportedNetworkError(
                f"the network's output {name!r} has unprintable characters in its name, which clients cannot send: "
                "rename it."
            )


def _require_fixed_classes(outputs_per_size: Sequence[Mapping[str, Tensor]]) -> None:
    counts = [outputs[LOGITS].shape[1] for outputs in outputs_per_size]
    if len(set(counts)) > 1:
        raise UnsupportedNetworkError(
            f"the input's height and width cannot be dynamic: at {len(counts)} sizes the network returns "
            f"{' and '.join(map(str, counts))} logits."
        )


def _describe(tensors_per_size: Sequence[Mapping[str, Tensor]]) -> Sequence[manifest.Tensor]:
    """Return name, datatype and shape of each tensor; `tensors_per_size` has the same tensors for each input size."""
    ranks = {tuple((name, tensor.ndim) for name, tensor in tensors.items()) for tensors in tensors_per_size}
    if len(ranks) > 1:
        raise UnsupportedNetworkError(
            "the input's height and width cannot be dynamic: the network returns different tensors at different sizes."
        )
    return [
        manifest.Tensor(name=name, datatype=_datatype(name, tensor), shape=[-1, *_dimensions(name, tensors_per_size)])
        for name, tensor in tensors_per_size[0].items()
    ]


def _dimensions(name: str, tensors_per_size: Sequence[Mapping[str, Tensor]]) -> list[int]:
    shapes = [tensors[name].shape[1:] for tensors in tensors_per_size]
    return [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True)]


def _datatype(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in DATATYPES:
        supported = ", ".join(str(dtype).removeprefix("torch.") for dtype in DATATYPES)
        raise UnsupportedNetworkError(
            f"the network's output '{name}' is {tensor.dtype}, which clients do not support: return {supported}."
        )
    return DATATYPES[tensor.dtype]
