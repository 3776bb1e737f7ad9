"""What a manifest says of the checks that an export made: it must not belie itself, nor the graph beside it."""

from collections.abc import Iterator

from export.check.artifact import Subject
from export.check.results import Fault, Finding, found
from export.names import BACKEND, CONFIG, LABELS, MANIFEST, MODEL
from export.onnx_model.runtime import every_value
from protos import manifest

WITNESSES = {"runtime", "pytorch"}  # who must know the shape of a module's output, and one more


def check_record(subject: Subject) -> Finding:
    """Compare the manifest's verdicts and counts with each other, and with the values of the graph."""
    if not subject.promise:
        return Finding("record", "not done", "no manifest, so no checks are recorded")
    promise, file = subject.promise, str(subject.folder / MANIFEST)
    words = [*_absent(promise), *_backend(subject), *_parity(promise), *_shapes(subject, promise), *_variant(promise)]
    checks = len(promise.parity.checks)
    return found("record", f"{checks} comparisons and the witnesses' verdict", [Fault(file, each) for each in words])


def _absent(promise: manifest.Manifest) -> Iterator[str]:
    if promise.schema_version < 1:
        yield f"its schema_version is {promise.schema_version}: it is 1 or more"
    named = {entry.path for entry in promise.files}
    for path in (MODEL, f"../{CONFIG}", *([f"../{LABELS}"] if promise.labels else [])):
        if path not in named:
            yield f"it names no {path.removeprefix('../')} among its files"


def _backend(subject: Subject) -> Iterator[str]:
    """Which of its backends a Triton gives the model to."""
    if subject.config and subject.config.backend != BACKEND:
        yield f"{CONFIG} beside it names the backend '{subject.config.backend}'; an export's is '{BACKEND}'"


def _parity(promise: manifest.Manifest) -> Iterator[str]:
    """An export is written only where every number lies within its tolerance."""
    for check in promise.parity.checks:
        if not check.max_abs_error <= check.tolerance:
            yield (
                f"it says that '{check.output}' departed from PyTorch by {check.max_abs_error:.3g} at batch "
                f"{check.batch}, where {check.tolerance:.3g} were allowed"
            )
    for layer in promise.layer_map.layers:
        if layer.tolerance and not layer.max_abs_error <= layer.tolerance:
            yield (
                f"it says that layer '{layer.name}' departed from PyTorch by {layer.max_abs_error:.3g}, "
                f"where {layer.tolerance:.3g} were allowed"
            )


def _shapes(subject: Subject, promise: manifest.Manifest) -> Iterator[str]:
    """A variant has no witnesses of its own."""
    if promise.HasField("variant"):
        return
    said, layers = promise.shapes, promise.layer_map.layers
    holding = {layer.value for layer in layers if layer.value}
    verified = {layer.value for layer in layers if layer.value and _is_verified(layer)}
    values = len(every_value(subject.model))
    if (said.module_outputs, said.module_outputs_verified) != (len(holding), len(verified)):
        yield (
            f"it counts {said.module_outputs_verified} of {said.module_outputs} module outputs as verified; "
            f"its layer map has {len(verified)} of {len(holding)}"
        )
    counted = said.module_outputs + said.other_values
    lacking = counted - said.module_outputs_verified - said.other_values_verified
    if counted > values or lacking != len(said.unverified):
        yield (
            f"it counts the shapes of {counted} values, {lacking} of them unverified, and lists "
            f"{len(said.unverified)}; the graph has {values} values"
        )


def _is_verified(layer: manifest.Layer) -> bool:
    return set(layer.shape_witnesses) > WITNESSES


def _variant(promise: manifest.Manifest) -> Iterator[str]:
    if not promise.HasField("variant"):
        return
    said = promise.variant
    if promise.name != f"{said.of}-{said.kind}":
        yield f"it is the {said.kind} variant of '{said.of}', but is called '{promise.name}'"
    if said.untrained != (promise.source.weights == manifest.WEIGHTS_RANDOM):
        weights = manifest.Weights.Name(promise.source.weights).removeprefix("WEIGHTS_").lower()
        yield f"its weights are {weights}, and its variant is called {'un' if said.untrained else ''}trained"
    held = {layer.name for layer in promise.layer_map.layers if layer.value}
    for name in [each.name for each in said.layers if each.name not in held][:1]:
        yield f"it measured its variant's layer '{name}', which its layer map does not hold"
    worst = min(said.layers, key=lambda layer: layer.sqnr_db, default=manifest.LayerSqnr())
    if said.worst_layer not in {each.name for each in said.layers if each.sqnr_db == worst.sqnr_db} | {worst.name}:
        yield f"it calls '{said.worst_layer}' the worst layer; by its figures that is '{worst.name}'"
