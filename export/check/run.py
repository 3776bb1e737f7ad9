"""The order of the checks. Where bytes are not the promised ones, nothing that stands in them is looked at."""

from collections.abc import Callable
from pathlib import Path

from export.check.artifact import Subject, version_folders
from export.check.consistency import check_format, check_interface, check_labels, check_preprocessing
from export.check.edge import check_edge, is_edge
from export.check.files import check_files, check_origin, check_paths, read_manifest
from export.check.layers import check_layers
from export.check.numbers import check_shapes
from export.check.pre_post import check_frame
from export.check.results import Fault, Finding, VersionReport, found
from export.check.self_consistency import check_record
from export.check.test_data import check_test_data
from export.errors import DamagedError, NewerSchemaError
from export.names import MANIFEST
from protos.version import SCHEMA_VERSION

Check = Callable[[Subject], Finding]
BYTES: dict[str, Check] = {"files": check_files}
OF_OTHERS: dict[str, Check] = {"origin": check_origin}
CONTENTS: dict[str, Check] = {
    "paths": check_paths,
    "format": check_format,
    "interface": check_interface,
    "labels": check_labels,
    "preprocessing": check_preprocessing,
    "layers": check_layers,
    "shapes": check_shapes,
    "test data": check_test_data,
    "frame": check_frame,
    "record": check_record,
}


def check_model(place: Path, progress: Callable[[str], None] = lambda step: None) -> list[VersionReport]:
    """Check the version whose folder `place` is, or every version of a model, or of all models of a repository.

    `progress` hears what is about to be checked. Raises: NoModelError, NewerSchemaError.
    """
    folders = version_folders(place)
    return [check_edge(each) if is_edge(each) else _check_version(each, progress) for each in folders]


def _check_version(folder: Path, progress: Callable[[str], None]) -> VersionReport:
    fields, manifest = read_manifest(folder)
    findings = [manifest]
    sealed = manifest.result != "not done"
    if fields is not None:
        _require_known_schema(folder, fields.get("schema_version"))
    subject = Subject(folder, fields)
    for stage in (BYTES if sealed else OF_OTHERS, CONTENTS):
        whole = all(finding.result != "fails" for finding in findings)
        for name, check in stage.items():
            progress(f"{folder.parent.name}, version {folder.name}: {name}")
            findings.append(_run(name, check, subject) if whole else _not_done(name))
    return VersionReport(str(folder), int(folder.name), sealed, tuple(findings))


def _run(name: str, check: Check, subject: Subject) -> Finding:
    try:
        return check(subject)
    except DamagedError as error:
        return found(name, "", [Fault(str(error.file), error.words)])
    except UnicodeDecodeError as error:
        return found(name, "", [Fault(str(subject.folder), f"a text is not UTF-8: {error}")])
    except OSError as error:
        return found(name, "", [Fault(str(error.filename or subject.folder), f"it cannot be read: {error.strerror}")])


def _not_done(name: str) -> Finding:
    return Finding(name, "not done", "what fails above comes first")


def _require_known_schema(folder: Path, schema: object) -> None:
    number = int(schema) if isinstance(schema, int | str) and str(schema).isdecimal() else 0  # JSON may quote it
    if number > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{folder / MANIFEST} has schema_version {schema}; this zoonnx knows up to {SCHEMA_VERSION}: "
            "install a newer zoonnx to check it."
        )
