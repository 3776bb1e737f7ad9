"""Writes what was kept: servable variants as models of their own, the others into edge/NAME/VERSION.

Requires: variants that were judged and kept, and the original as it stands in the repository.
Ensures: whole or not at all, like every version; no path of this machine; the manifest says what it was made of.
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
from export.artifact.manifest_json import canonical_sha256, seal, to_json, written
from export.errors import ExportError, RepositoryConflictError, RepositoryError
from export.names import CONFIG, EDGE_FILES, LABELS, MANIFEST, MODEL, TEST_DATA
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import VARIANT_FLOOR, VARIANT_MULTIPLE
from export.variants.eval_data import Evidence
from export.variants.measure import Figures
from export.variants.settings import Kind
from protos import inference, manifest


@dataclass(frozen=True)
class Original:
    """The float32 version that variants are made of, as it stands on disk."""

    name: str
    folder: Path
    model: onnx.ModelProto
    promise: manifest.Manifest

    @property
    def repository(self) -> Path:
        return self.folder.parent.parent

    @property
    def version(self) -> int:
        return int(self.folder.name)

    @property
    def sha256(self) -> str:
        """Of the model file."""
        return hashlib.sha256((self.folder / MODEL).read_bytes()).hexdigest()


def read_original(folder: Path) -> Original:
    """Read a version's folder."""
    promise = json_format.Parse((folder / MANIFEST).read_text("utf-8"), manifest.Manifest())
    return Original(folder.parent.name, folder, onnx.load(folder / MODEL), promise)


def edge_folder(models: Path, name: str, version: int) -> Path:
    """Where the files for devices go: beside the repository, since a server must not load them."""
    return models.resolve().parent / "edge" / name / str(version)


def require_room(models: Path, name: str, kinds: Sequence[Kind]) -> None:
    """Refuse, before anything is done, what stands in the way. Raises: RepositoryError."""
    folder = edge_folder(models, name, repository.next_version(models / name))
    if {"ort", "fixed"} & set(kinds) and folder.exists():
        raise RepositoryError(f"{folder} stands there already, from another repository: move it away.")
    config = models / name / CONFIG
    for kind in kinds:
        if config.is_file() and (models / f"{name}-{kind}").exists():
            repository.require_same(models / f"{name}-{kind}", shared_files(models / name, f"{name}-{kind}"))
        elif (models / f"{name}-{kind}").exists():
            raise RepositoryConflictError(f"{models / f'{name}-{kind}'} stands there without {name}: move it away.")


def shared_files(model: Path, name: str) -> dict[str, bytes]:
    """The original's config.pbtxt and labels.txt, under the variant's name."""
    config = text_format.Parse((model / CONFIG).read_text("utf-8"), inference.ModelConfig())
    config.name = name
    files = {CONFIG: text_format.MessageToString(config, as_utf8=True).encode()}
    labels = model / LABELS
    return {**files, LABELS: labels.read_bytes()} if labels.is_file() else files


def write_servable(
    original: Original,
    kind: Kind,
    model: onnx.ModelProto,
    layer_map: manifest.LayerMap,
    variant: manifest.Variant,
) -> Path:
    """Write a variant as the next version of NAME-KIND and return its folder. Raises: RepositoryError."""
    name = f"{original.name}-{kind}"
    promise = manifest.Manifest()
    promise.CopyFrom(original.promise)
    promise.name = name
    promise.layer_map.CopyFrom(layer_map)
    promise.ClearField("shapes")
    promise.variant.CopyFrom(variant)
    promise.parity.CopyFrom(_parity(original, model))
    shared = shared_files(original.folder.parent, name)
    test_data = {
        f"{TEST_DATA}/{path.name}": path.read_bytes() for path in sorted((original.folder / TEST_DATA).glob("*.pb"))
    }
    files = {MODEL: model.SerializeToString(deterministic=True), **test_data}
    seal(promise, {**files, **{f"../{file}": content for file, content in shared.items()}})
    everything = {**files, MANIFEST: to_json(promise).encode()}
    return repository.write_version(original.repository / name, shared, everything)


def describe(original: Original, kind: Kind, how: str, evidence: Evidence, figures: Figures) -> manifest.Variant:
    """Return what a variant's manifest says of how it was made and measured; nothing that depends on the machine."""
    metrics = {"output_sqnr_db": figures.output_db}
    if figures.accuracy:
        metrics |= {"accuracy_fp32": figures.accuracy.fp32, "accuracy": figures.accuracy.variant}
    if figures.agreement is not None:
        metrics["agreement"] = figures.agreement
    return manifest.Variant(
        kind=kind,
        of=original.name,
        of_sha256=original.sha256,
        how=how,
        dataset=evidence.dataset,
        calibration_pictures=len(evidence.calibration.images) if kind == "int8" else 0,
        untrained=not evidence.trained,
        figures=[manifest.Metric(name=name, value=round(value, 6)) for name, value in sorted(metrics.items())],
        layers=[manifest.LayerSqnr(name=name, sqnr_db=db) for name, db in figures.layers_db.items()],
        worst_layer=figures.worst_layer[0] if figures.worst_layer else "",
    )


def write_edge(original: Original, files: Mapping[str, bytes]) -> Path:
    """Write the files for devices, with their hashes beside them. Raises: ExportError."""
    folder = edge_folder(original.repository, original.name, original.version)
    facts: dict[str, Any] = {
        "of": {"name": original.name, "version": original.version, "sha256": original.sha256},
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in sorted(files.items())
        },
    }
    listed = written({**facts, "sha256": canonical_sha256(facts)})
    repository.write_folder(folder, {**files, EDGE_FILES: listed.encode()})
    return folder


def _parity(original: Original, model: onnx.ModelProto) -> manifest.Parity:
    """How far the variant lies from what PyTorch gave for the test data, and how far it may lie elsewhere."""
    tensors = {path.stem: onnx.load_tensor(path) for path in (original.folder / TEST_DATA).glob("*.pb")}
    feeds = {each.name: numpy_helper.to_array(each) for stem, each in tensors.items() if stem.startswith("input")}
    expected = {each.name: numpy_helper.to_array(each) for stem, each in tensors.items() if stem.startswith("output")}
    got = Runtime(model).run(feeds)
    checks = []
    for name, array in sorted(expected.items()):
        error = float(f"{np.max(np.abs(got[name].astype(np.float64) - array), initial=0.0):.2e}")
        if not np.isfinite(error):
            raise ExportError(f"'{name}' of {original.name}'s variant is not finite on the test data.")
        checks.append(
            manifest.ParityCheck(
                batch=len(array),
                output=name,
                max_abs_error=error,
                tolerance=max(VARIANT_MULTIPLE * error, VARIANT_FLOOR),
            )
        )
    return manifest.Parity(checks=checks)
