"""Writes accepted variants: servable ones as separate models, the others as files for devices in `edge_folder`.

Requires: accepted variants, and the original in its repository.
Ensures: each variant is written completely or not at all; no file contains a path of this machine; the manifest records
the original.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import json_format, text_format
from onnx import numpy_helper

from export.artifact import repository
from export.artifact.beside import edge_folder
from export.artifact.manifest_json import canonical_sha256, seal, serialize, to_json
from export.errors import ExportError, RepositoryConflictError, RepositoryError
from export.names import EDGE_FILES, TEST_DATA
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import VARIANT_FLOOR, VARIANT_MULTIPLE
from export.variants import ort
from export.variants.eval_data import EvalData
from export.variants.measure import Measurements
from export.variants.settings import SERVABLE, Kind
from protos import inference
from protos.files import CONFIG, LABELS, MANIFEST, MODEL
from protos.manifest import LayerMap, LayerSqnr, Manifest, Metric, Parity, ParityCheck, Variant

EDGE_MODELS: Mapping[Kind, str] = {"ort": ort.MODEL, "fixed": "model.fixed.onnx"}


@dataclass(frozen=True)
class Original:
    """The float32 version from which variants are built.

    Attributes:
        name: The model's name.
        folder: The version's folder.
        model: The ONNX model.
        manifest: Its manifest.
    """

    name: str
    folder: Path
    model: onnx.ModelProto
    manifest: Manifest

    @property
    def repository(self) -> Path:
        return self.folder.parent.parent

    @property
    def version(self) -> int:
        return int(self.folder.name)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the ONNX file."""
        return hashlib.sha256((self.folder / MODEL).read_bytes()).hexdigest()


def read_original(folder: Path) -> Original:
    """Read the version in `folder`."""
    manifest = json_format.Parse((folder / MANIFEST).read_text("utf-8"), Manifest())
    return Original(folder.parent.name, folder, onnx.load(folder / MODEL), manifest)


def require_available(models: Path, name: str, kinds: Sequence[Kind]) -> None:
    """Reject target folders that are occupied. Raises: RepositoryError."""
    folder = edge_folder(models, name, repository.next_version(models / name))
    if any(kind not in SERVABLE for kind in kinds) and folder.exists():
        raise RepositoryError(f"{folder} already exists, from a version that was removed: move it away.")
    config = models / name / CONFIG
    for kind in kinds:
        variant = models / f"{name}-{kind}"
        if config.is_file() and variant.exists():
            repository.require_identical_shared_files(variant, shared_files(models / name, variant.name))
        elif variant.exists():
            raise RepositoryConflictError(f"{variant} exists, but {name} does not: move it away.")


def shared_files(model: Path, variant: str) -> dict[str, bytes]:
    """Return config.pbtxt and labels.txt of `model` for the model `variant`."""
    config = text_format.Parse((model / CONFIG).read_text("utf-8"), inference.ModelConfig())
    config.name = variant
    files = {CONFIG: text_format.MessageToString(config, as_utf8=True).encode()}
    labels = model / LABELS
    return {**files, LABELS: labels.read_bytes()} if labels.is_file() else files


def write_servable(
    original: Original, kind: Kind, model: onnx.ModelProto, layer_map: LayerMap, variant: Variant
) -> Path:
    """Write a variant as the next version of NAME-KIND and return its folder. Raises: RepositoryError."""
    name = f"{original.name}-{kind}"
    manifest = Manifest()
    manifest.CopyFrom(original.manifest)
    manifest.name = name
    manifest.layer_map.CopyFrom(layer_map)
    manifest.ClearField("shapes")
    manifest.variant.CopyFrom(variant)
    manifest.parity.CopyFrom(_parity(original, model))
    shared = shared_files(original.folder.parent, name)
    test_data = {
        f"{TEST_DATA}/{path.name}": path.read_bytes() for path in sorted((original.folder / TEST_DATA).glob("*.pb"))
    }
    files = {MODEL: model.SerializeToString(deterministic=True), **test_data}
    seal(manifest, {**files, **{f"../{file}": content for file, content in shared.items()}})
    all_files = {**files, MANIFEST: to_json(manifest).encode()}
    return repository.write_version(original.repository / name, shared, all_files)


def variant_record(original: Original, kind: Kind, how: str, eval_data: EvalData, measured: Measurements) -> Variant:
    """Return the manifest's record of how a variant was built and measured, without what depends on the machine."""
    metrics = {"output_sqnr_db": measured.output_db}
    if measured.accuracy:
        metrics |= {"accuracy_fp32": measured.accuracy.fp32, "accuracy": measured.accuracy.variant}
    if measured.agreement is not None:
        metrics["agreement"] = measured.agreement
    return Variant(
        kind=kind,
        of=original.name,
        of_sha256=original.sha256,
        how=how,
        dataset=eval_data.dataset,
        calibration_pictures=len(eval_data.calibration.images) if kind == "int8" else 0,
        untrained=not eval_data.is_trained,
        figures=[Metric(name=name, value=round(value, 6)) for name, value in sorted(metrics.items())],
        layers=[LayerSqnr(name=name, sqnr_db=db) for name, db in measured.layers_db.items()],
        worst_layer=measured.worst_layer[0] if measured.worst_layer else "",
    )


def write_edge(original: Original, files: Mapping[str, bytes]) -> Path:
    """Write the files for devices and the list of their hashes; return their folder. Raises: ExportError."""
    folder = edge_folder(original.repository, original.name, original.version)
    fields: dict[str, Any] = {
        "of": {"name": original.name, "version": original.version, "sha256": original.sha256},
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in sorted(files.items())
        },
    }
    file_list = serialize({**fields, "sha256": canonical_sha256(fields)})
    repository.write_folder(folder, {**files, EDGE_FILES: file_list.encode()})
    return folder


def _parity(original: Original, model: onnx.ModelProto) -> Parity:
    """Return the errors of a variant against PyTorch's outputs for the test data, and tolerances for other machines."""
    tensors = {path.stem: onnx.load_tensor(path) for path in (original.folder / TEST_DATA).glob("*.pb")}
    inputs = [tensor for stem, tensor in tensors.items() if stem.startswith("input")]
    outputs = [tensor for stem, tensor in tensors.items() if stem.startswith("output")]
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in outputs}
    actual = Runtime(model).run({tensor.name: numpy_helper.to_array(tensor) for tensor in inputs})
    checks = []
    for name, array in sorted(expected.items()):
        error = float(f"{np.max(np.abs(actual[name].astype(np.float64) - array), initial=0.0):.2e}")
        if not np.isfinite(error):
            raise ExportError(f"output '{name}' of a variant of {original.name} is not finite on the test data.")
        tolerance = max(VARIANT_MULTIPLE * error, VARIANT_FLOOR)
        checks.append(ParityCheck(batch=len(array), output=name, max_abs_error=error, tolerance=tolerance))
    return Parity(checks=checks)
