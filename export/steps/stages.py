"""The results after each step of an export.

Each stage extends the previous one, so that a result has one name in all later steps. Stages are immutable, except that
some steps modify the ONNX model or the layer map; their docstrings state this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from export.interface.interface import Interface
from export.interface.signature import Signature
from export.reference.expected import ReferenceRuns
from export.settings import ExportSettings
from export.source.source_network import SourceNetwork
from export.verify.extremes import ExtremeCheck
from export.verify.parity import Check
from protos import manifest


@dataclass(frozen=True, kw_only=True)
class Source:
    """After load_source.

    Attributes:
        source: The network in float32, with its preprocessing, labels and the origin of its weights.
        given: The network as it was passed; the same as that of `source` unless it has another precision.
        settings: The settings of the export.
    """

    source: SourceNetwork
    given: nn.Module
    settings: ExportSettings


@dataclass(frozen=True, kw_only=True)
class Prepared(Source):
    """After prepare_network.

    Attributes:
        network: A copy of the network that can be converted and compared.
        interface: The model's input and outputs, and how they relate to the network's.
    """

    network: nn.Module
    interface: Interface


@dataclass(frozen=True, kw_only=True)
class Reference(Prepared):
    """After run_reference.

    Attributes:
        runs: PyTorch's results for the probe inputs, at each size of the interface.
    """

    runs: Sequence[ReferenceRuns]


@dataclass(frozen=True, kw_only=True)
class Described(Reference):
    """After describe_model.

    Attributes:
        signature: The model's tensors, labels and image preprocessing.
        shared_files: The files that all versions of the model share, by name.
    """

    signature: Signature
    shared_files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Converted(Described):
    """After convert_network and screen_reference.

    Attributes:
        model: The ONNX model, with the inputs and outputs of `interface`.
    """

    model: onnx.ModelProto


@dataclass(frozen=True, kw_only=True)
class PreparationVerified(Converted):
    """After verify_preparation.

    Attributes:
        removed_layers: Entries of the layer map for layers that re-parameterisation removed.
        cast: How much the cast to float32 changed the outputs; None if the network was passed in float32.
    """

    removed_layers: Sequence[manifest.Layer]
    cast: manifest.Cast | None


@dataclass(frozen=True, kw_only=True)
class Mapped(PreparationVerified):
    """After map_model_layers.

    Attributes:
        layer_map: The value of the model, or the reason for its absence, for each module output.
    """

    layer_map: manifest.LayerMap


@dataclass(frozen=True, kw_only=True)
class ShapesVerified(Mapped):
    """After verify_shapes.

    Attributes:
        shapes: The number of shapes that were verified, by witness.
    """

    shapes: manifest.Shapes


@dataclass(frozen=True, kw_only=True)
class Verified(ShapesVerified):
    """After verify_parity.

    Attributes:
        checks: The comparison of each output with PyTorch, at each batch size and input size.
        extremes: The comparison of each output with PyTorch, at the ends of the input's range.
    """

    checks: Sequence[Check]
    extremes: Sequence[ExtremeCheck]


@dataclass(frozen=True, kw_only=True)
class Written(Verified):
    """After write_version.

    Attributes:
        folder: The folder of the new version.
        model_bytes: The size of the model file and its external data.
        manifest: The version's manifest.
    """

    folder: Path
    model_bytes: int
    manifest: manifest.Manifest
