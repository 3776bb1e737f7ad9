"""Folders beside a model repository, for what a server must not load: reports, and files for devices.

Each is named after the repository, so that exports into two repositories of one folder never share a path.
"""

from pathlib import Path

REPORTS, EDGE = "reports", "edge"


def report_folder(models: Path, name: str, version: int) -> Path:
    """Return the folder of a version's reports: reports/REPOSITORY/NAME/VERSION beside the repository `models`."""
    return _beside(models, REPORTS) / name / str(version)


def edge_folder(models: Path, name: str, version: int) -> Path:
    """Return the folder of a version's files for devices: edge/REPOSITORY/NAME/VERSION beside the repository."""
    return _beside(models, EDGE) / name / str(version)


def _beside(models: Path, kind: str) -> Path:
    repository = models.resolve()
    return repository.parent / kind / repository.name
