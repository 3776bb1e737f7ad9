"""Runs the checks in order. If a file of a version is damaged, its contents are not checked."""

from collections.abc import Callable
from pathlib import Path

from export.check.artifact import Artifact, version_folders
from export.check.consistency import check_format, check_interface, check_labels, check_preprocessing
from export.check.edge import check_edge, is_edge
from export.check.files import check_files, check_origin, check_paths, read_manifest
from export.check.layers import check_layers
from export.check.pre_post import check_pre_post
from export.check.results import CheckResult, Failure, VersionReport
from export.check.self_consistency import check_self_consistency
from export.check.shapes import check_shapes
from export.check.test_data import check_test_data
from export.errors import DamagedError, NewerSchemaError
from protos.files import MANIFEST
from protos.version import SCHEMA_VERSION

Check = Callable[[Artifact], CheckResult]
BYTE_CHECKS: dict[str, Check] = {"files": check_files}
FOREIGN_CHECKS: dict[str, Check] = {"origin": check_origin}  # instead of BYTE_CHECKS, without a manifest
CONTENT_CHECKS: dict[str, Check] = {
    "paths": check_paths,
    "format": check_format,
    "interface": check_interface,
    "labels": check_labels,
    "preprocessing": check_preprocessing,
    "layers": check_layers,
    "shapes": check_shapes,
    "test data": check_test_data,
    "pre/postprocessing": check_pre_post,
    "self-consistency": check_self_consistency,
}


def check_model(path: Path | str, progress: Callable[[str], None] = lambda step: None) -> list[VersionReport]:
    """Check the version at `path`, or every version of a model, or of all models of a repository.

    `progress` is called with the name of each check before it starts. Raises: NoModelError, NewerSchemaError.
    """
    folders = version_folders(Path(path))
    return [check_edge(folder) if is_edge(folder) else _check_version(folder, progress) for folder in folders]


def _check_version(folder: Path, progress: Callable[[str], None]) -> VersionReport:
    fields, manifest_result = read_manifest(folder)
    has_manifest = manifest_result.status != "not run"
    if fields is not None:
        _require_known_schema(folder, fields.get("schema_version"))
    artifact = Artifact(folder, fields)
    results = [manifest_result]
    for stage in (BYTE_CHECKS if has_manifest else FOREIGN_CHECKS, CONTENT_CHECKS):
        is_intact = all(result.status != "failed" for result in results)
        for name, check in stage.items():
            progress(f"{folder.parent.name}, version {folder.name}: {name}")
            skipped = CheckResult.not_run(name, "skipped, because an earlier check failed")
            results.append(_run(name, check, artifact) if is_intact else skipped)
    return VersionReport(str(folder), int(folder.name), has_manifest, tuple(results))


def _run(name: str, check: Check, artifact: Artifact) -> CheckResult:
    """Run one check, and report a file that cannot be read as a failure."""
    try:
        return check(artifact)
    except DamagedError as error:
        failure = Failure(str(error.file), error.reason)
    except UnicodeDecodeError as error:
        failure = Failure(str(artifact.folder), f"a text file is not UTF-8: {error}")
    except OSError as error:
        failure = Failure(str(error.filename or artifact.folder), f"cannot be read: {error.strerror}")
    return CheckResult.from_failures(name, "", [failure])


def _require_known_schema(folder: Path, schema: object) -> None:
    number = int(schema) if isinstance(schema, int | str) and str(schema).isdecimal() else 0  # JSON may quote it
    if number > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{folder / MANIFEST} has schema_version {schema}, but this zoonnx supports versions up to "
            f"{SCHEMA_VERSION}: install a newer zoonnx to check it."
        )
