"""What an export promises: the manifest, from what was asked for and what the checks found."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch

from export.artifact.manifest_json import SCHEMA_VERSION
from export.interface.interface import ImageInterface, Interface
from export.interface.signature import Contract
from export.settings import ExportSettings
from export.verify.parity import Check
from protos import manifest
from protos.version import VERSION
from zoo import LoadedNetwork
from zoo.runs.load import WeightsSource

WEIGHTS = {
    "random": manifest.WEIGHTS_RANDOM,
    "trained": manifest.WEIGHTS_TRAINED,
    "pretrained": manifest.WEIGHTS_PRETRAINED,
    "given": manifest.WEIGHTS_GIVEN,
}


@dataclass(frozen=True)
class Found:
    """What the checks found."""

    layer_map: manifest.LayerMap
    shapes: manifest.Shapes
    checks: Sequence[Check]
    inputs: Sequence[str]  # what the network was compared on


def manifest_of(
    given: LoadedNetwork,
    settings: ExportSettings,
    contract: Contract,
    interface: Interface,
    model: onnx.ModelProto,
    found: Found,
) -> manifest.Manifest:
    """Return the manifest of `model`, not yet sealed."""
    return manifest.Manifest(
        schema_version=SCHEMA_VERSION,
        name=settings.name,
        zoonnx_version=VERSION,
        source=_source(given.architecture, given.weights),
        preprocessing=contract.preprocessing,
        labels=contract.labels,
        inputs=contract.inputs,
        outputs=contract.outputs,
        head=_head(interface),
        format=manifest.Format(
            opset=settings.opset, ir_version=model.ir_version, exporter=f"torch {torch.__version__}"
        ),
        layer_map=found.layer_map,
        shapes=found.shapes,
        parity=manifest.Parity(
            checks=[_parity(check, settings.dynamic_size) for check in found.checks], inputs=found.inputs
        ),
    )


def _source(architecture: str, weights: WeightsSource) -> manifest.Source:
    return manifest.Source(
        net=architecture,
        weights=WEIGHTS[weights.kind],
        licence=weights.licence,
        url=weights.url,
        dataset=weights.dataset,
        seed=weights.seed,
        metrics=[manifest.Metric(name=name, value=value) for name, value in sorted(weights.metrics.items())],
    )


def _head(interface: Interface) -> manifest.Head | None:
    if not isinstance(interface, ImageInterface):
        return None
    return manifest.Head(activation=interface.head.activation, temperature=interface.head.temperature)


def _parity(check: Check, dynamic_size: bool) -> manifest.ParityCheck:
    found, size = check.agreement, check.size if dynamic_size else (0, 0)
    return manifest.ParityCheck(
        batch=check.batch,
        output=check.output,
        max_abs_error=found.max_abs_error,
        reference_error=found.reference_error,
        tolerance=found.tolerance,
        height=size[0],
        width=size[1],
    )
