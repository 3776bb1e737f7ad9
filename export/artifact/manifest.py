"""Builds the manifest of a version from its settings and from the results of its checks."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch

from export.interface.interface import ImageInterface, Interface
from export.interface.signature import Signature
from export.settings import ExportSettings
from export.source.source_network import SourceNetwork
from export.verify.extremes import ExtremeCheck
from export.verify.parity import Check
from protos import manifest
from protos.version import SCHEMA_VERSION, VERSION
from zoo.runs.load import WeightsSource

WEIGHTS = {
    "random": manifest.WEIGHTS_RANDOM,
    "trained": manifest.WEIGHTS_TRAINED,
    "pretrained": manifest.WEIGHTS_PRETRAINED,
    "given": manifest.WEIGHTS_GIVEN,
}


@dataclass(frozen=True)
class Verification:
    """Results of all checks of one export.

    Attributes:
        layer_map: where each layer's output is in the ONNX model, with its errors against PyTorch.
        shapes: how many shapes independent sources confirm.
        checks: parity of each output, by batch size and input size.
        extremes: parity of each output on inputs at the ends of their range.
        cast: how much the cast to float32 changed the outputs; None if there was none.
        inputs: kinds of the inputs that were compared, such as "noise"; one for each row of the largest batch.
    """

    layer_map: manifest.LayerMap
    shapes: manifest.Shapes
    checks: Sequence[Check]
    inputs: Sequence[str]
    extremes: Sequence[ExtremeCheck]
    cast: manifest.Cast | None


def build_manifest(
    source: SourceNetwork,
    settings: ExportSettings,
    signature: Signature,
    interface: Interface,
    model: onnx.ModelProto,
    results: Verification,
) -> manifest.Manifest:
    """Return the manifest of `model`, without the hashes that `seal` adds."""
    return manifest.Manifest(
        schema_version=SCHEMA_VERSION,
        name=settings.name,
        zoonnx_version=VERSION,
        source=_source(source.architecture, source.weights),
        preprocessing=signature.preprocessing,
        labels=signature.labels,
        inputs=signature.inputs,
        outputs=signature.outputs,
        head=_head(interface),
        format=manifest.Format(
            opset=settings.opset, ir_version=model.ir_version, exporter=f"torch {torch.__version__}"
        ),
        layer_map=results.layer_map,
        shapes=results.shapes,
        parity=manifest.Parity(
            checks=[_parity_check(check, settings.dynamic_size) for check in results.checks],
            inputs=results.inputs,
            extremes=map(_extreme_check, results.extremes),
            cast=results.cast,
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


def _extreme_check(check: ExtremeCheck) -> manifest.ExtremeCheck:
    return manifest.ExtremeCheck(
        input=check.input_kind,
        output=check.output,
        max_abs_error=check.agreement.max_abs_error,
        reference_error=check.agreement.reference_error,
        tolerance=check.agreement.tolerance,
        unreliable=check.is_unreliable,
    )


def _parity_check(check: Check, dynamic_size: bool) -> manifest.ParityCheck:
    height, width = check.size if dynamic_size else (0, 0)
    return manifest.ParityCheck(
        batch=check.batch,
        output=check.output,
        max_abs_error=check.agreement.max_abs_error,
        reference_error=check.agreement.reference_error,
        tolerance=check.agreement.tolerance,
        height=height,
        width=width,
    )
