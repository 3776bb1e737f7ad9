"""Step 11: from a verified model to a version in the repository."""

from onnx import numpy_helper

from export.artifact import repository
from export.artifact.manifest import Verification, build_manifest
from export.artifact.manifest_json import seal, to_json
from export.artifact.metadata import remove_exporter_metadata, write_metadata
from export.names import TEST_DATA, WEIGHTS
from export.onnx_model import external_data
from export.reference.expected import SMALL_BATCH, ReferenceRuns
from export.reference.preparation import insert_removed
from export.steps.stages import Verified, Written
from protos.files import MANIFEST, MODEL
from protos.manifest import LayerMap


def write_version(context: Verified) -> Written:
    """Write the model, its manifest and its test data as the next version.

    Reads: everything.
    Adds: `folder`, `manifest` and `model_bytes`.
    Changes: `model`, whose metadata becomes the layer map, the labels and the preprocessing.
    Ensures: the version is complete, or, on an error, the repository is unchanged.
    Raises: RepositoryError.
    """
    settings, model, signature = context.settings, context.model, context.signature
    layer_map = LayerMap(layers=insert_removed(context.layer_map.layers, context.removed_layers))
    remove_exporter_metadata(model)
    write_metadata(model, layer_map, signature.labels, signature.preprocessing)
    results = Verification(
        layer_map, context.shapes, context.checks, context.runs[0].kinds, context.extremes, context.cast
    )
    manifest = build_manifest(context.source, settings, signature, context.interface, model, results)
    files = {**external_data.model_files(model), **_test_data(context.runs[0])}
    seal(manifest, {**files, **{f"../{name}": content for name, content in context.shared_files.items()}})
    files[MANIFEST] = to_json(manifest).encode()
    folder = repository.write_version(settings.to / settings.name, context.shared_files, files)
    model_bytes = sum(len(files[name]) for name in (MODEL, WEIGHTS) if name in files)
    return Written(**vars(context), folder=folder, manifest=manifest, model_bytes=model_bytes)


def _test_data(runs: ReferenceRuns) -> dict[str, bytes]:
    """Return one batch and PyTorch's outputs for it, in the layout of ONNX's backend tests."""
    inputs, outputs = runs.inputs(SMALL_BATCH), runs.small_batch.outputs
    tensors = {f"input_{index}": (name, array) for index, (name, array) in enumerate(inputs.items())}
    tensors |= {f"output_{index}": (name, value.numpy()) for index, (name, value) in enumerate(outputs.items())}
    return {
        f"{TEST_DATA}/{file}.pb": numpy_helper.from_array(array, name).SerializeToString(deterministic=True)
        for file, (name, array) in tensors.items()
    }
