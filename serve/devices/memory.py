"""Available memory, and the check that a model fits in it; otherwise the operating system would kill the server."""

from collections.abc import Mapping
from pathlib import Path

from serve.errors import BadModelError

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
KIB, MIB = 2**10, 2**20


def check_fits(model: Path) -> None:
    """Check that a model's file and the weights beside it are not larger than the available memory.

    Raises:
        BadModelError: They are larger.
    """
    available = available_bytes()
    needed = sum(path.stat().st_size for path in model.parent.iterdir() if path.is_file())
    if available is not None and needed > available:
        raise BadModelError(
            f"{model} does not fit: its weights need {needed // MIB} MiB; {available // MIB} MiB are available."
        )


def available_bytes() -> int | None:
    """Return the bytes that this process can still allocate on the machine and in its container; None if unknown."""
    if not MEMINFO.exists():
        return None
    limits = [meminfo_bytes()["MemAvailable"]]
    if (CGROUP / "memory.max").exists() and (CGROUP / "memory.max").read_text().strip().isdigit():
        limits.append(_cgroup_available_bytes(CGROUP))
    return min(limits)


def _cgroup_available_bytes(cgroup: Path) -> int:
    """Return the unused part of a control group's limit; its file cache is reclaimable and counts as unused."""
    stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    cached = int(stat["inactive_file"]) + int(stat["active_file"])
    return int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()) + cached


def meminfo_bytes() -> Mapping[str, int]:
    """Return the entries of Linux' /proc/meminfo in bytes, by name."""
    entries = (line.split() for line in MEMINFO.read_text().splitlines())
    return {entry[0].rstrip(":"): int(entry[1]) * KIB for entry in entries}
