"""Checks that the results recorded in a manifest contradict neither each other nor the graph."""

from collections.abc import Iterator

from export.check.artifact import Artifact
from export.check.results import CheckResult, Failure
from export.onnx_model.runtime import value_names
from protos.files import CONFIG, LABELS, MANIFEST, MODEL
from protos.keys import BACKEND
from protos.manifest import WEIGHTS_RANDOM, LayerSqnr, Manifest, Weights

REQUIRED_WITNESSES = {"runtime", "pytorch"}  # a verified module output needs these two and one more


def check_self_consistency(artifact: Artifact) -> CheckResult:
    """Compare the recorded errors and counts with each other and with the values of the graph."""
    manifest = artifact.manifest
    if not manifest:
        return CheckResult.not_run("self-consistency", "no manifest, so no results are recorded")
    messages = [
        *_required_entries(manifest),
        *_backend(artifact),
        *_parity(manifest),
        *_shape_counts(artifact, manifest),
        *_variant(manifest),
    ]
    file = str(artifact.folder / MANIFEST)
    details = f"{len(manifest.parity.checks)} recorded parity checks, counts of verified shapes"
    return CheckResult.from_failures("self-consistency", details, [Failure(file, message) for message in messages])


def _required_entries(manifest: Manifest) -> Iterator[str]:
    if manifest.schema_version < 1:
        yield f"expected schema_version 1 or more, got {manifest.schema_version}"
    listed = {entry.path for entry in manifest.files}
    for path in (MODEL, f"../{CONFIG}", *([f"../{LABELS}"] if manifest.labels else [])):
        if path not in listed:
            yield f"{path.removeprefix('../')} is missing in its list of files"


def _backend(artifact: Artifact) -> Iterator[str]:
    """Check the backend, which Triton loads by this name."""
    if artifact.config and artifact.config.backend != BACKEND:
        yield f"expected backend '{BACKEND}' in {CONFIG}, got '{artifact.config.backend}'"


def _parity(manifest: Manifest) -> Iterator[str]:
    """Check that every recorded error is within its tolerance, as an export requires."""
    for check in manifest.parity.checks:
        if not check.max_abs_error <= check.tolerance:
            yield (
                f"records that '{check.output}' differs from PyTorch by {check.max_abs_error:.3g} at batch "
                f"{check.batch}, more than its tolerance of {check.tolerance:.3g}"
            )
    for layer in manifest.layer_map.layers:
        if layer.tolerance and not layer.max_abs_error <= layer.tolerance:
            yield (
                f"records that layer '{layer.name}' differs from PyTorch by {layer.max_abs_error:.3g}, "
                f"more than its tolerance of {layer.tolerance:.3g}"
            )


def _shape_counts(artifact: Artifact, manifest: Manifest) -> Iterator[str]:
    """Compare the counts of verified shapes with the layer map and the graph; a variant records none."""
    if manifest.HasField("variant"):
        return
    shapes, layers = manifest.shapes, manifest.layer_map.layers
    module_outputs = {layer.value for layer in layers if layer.value}
    verified = {layer.value for layer in layers if layer.value and set(layer.shape_witnesses) > REQUIRED_WITNESSES}
    values = len(value_names(artifact.model))
    if (shapes.module_outputs, shapes.module_outputs_verified) != (len(module_outputs), len(verified)):
        yield (
            f"counts {shapes.module_outputs_verified} of {shapes.module_outputs} module outputs as verified, but "
            f"its layer map has {len(verified)} of {len(module_outputs)}"
        )
    counted = shapes.module_outputs + shapes.other_values
    unverified = counted - shapes.module_outputs_verified - shapes.other_values_verified
    if counted > values or unverified != len(shapes.unverified):
        yield (
            f"counts the shapes of {counted} values, {unverified} of them unverified, but lists "
            f"{len(shapes.unverified)} as unverified, and the graph has {values} values"
        )


def _variant(manifest: Manifest) -> Iterator[str]:
    if not manifest.HasField("variant"):
        return
    variant = manifest.variant
    if manifest.name != f"{variant.of}-{variant.kind}":
        yield f"expected the name '{variant.of}-{variant.kind}' for this variant, got '{manifest.name}'"
    if variant.untrained != (manifest.source.weights == WEIGHTS_RANDOM):
        weights = Weights.Name(manifest.source.weights).removeprefix("WEIGHTS_").lower()
        yield f"has {weights} weights, but records its variant as {'un' if variant.untrained else ''}trained"
    in_layer_map = {layer.name for layer in manifest.layer_map.layers if layer.value}
    for name in [layer.name for layer in variant.layers if layer.name not in in_layer_map][:1]:
        yield f"records the SQNR of layer '{name}', for which its layer map has no value"
    worst = min(variant.layers, key=lambda layer: layer.sqnr_db, default=LayerSqnr())
    if variant.worst_layer not in {layer.name for layer in variant.layers if layer.sqnr_db == worst.sqnr_db} | {
        worst.name
    }:
        yield f"records '{variant.worst_layer}' as the worst layer, but '{worst.name}' has the lowest SQNR"
