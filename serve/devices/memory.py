"""How much memory there is, and models that are larger: refused before the operating system ends the whole server."""

from collections.abc import Mapping
from pathlib import Path

from serve.errors import BadModelError

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
KIB, MIB = 2**10, 2**20


def check_fits(model: Path) -> None:
    """Raises: BadModelError, where a model's file and the weights beside it are larger than what memory is free."""
    free = available_bytes()
    needed = sum(path.stat().st_size for path in model.parent.iterdir() if path.is_file())
    if free is not None and needed > free:
        raise BadModelError(
            f"{model} does not fit: its weights take {needed // MIB} MiB, and {free // MIB} MiB of memory are free."
        )


def available_bytes() -> int | None:
    """What this process may still take, by the machine and by its container; None where the system does not tell."""
    if not MEMINFO.exists():
        return None
    limits = [meminfo_bytes()["MemAvailable"]]
    if (GROUP / "memory.max").exists() and (GROUP / "memory.max").read_text().strip().isdigit():
        limits.append(_left_in(GROUP))
    return min(limits)


def _left_in(group: Path) -> int:
    """What is left of a control group's limit; files that it has cached give way and do not count."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    cached = int(stat["inactive_file"]) + int(stat["active_file"])
    return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + cached


def meminfo_bytes() -> Mapping[str, int]:
    """The machine's memory, by Linux' names."""
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * KIB for words in lines}
