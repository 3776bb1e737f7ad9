"""What a check found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Result = Literal["holds", "fails", "not done"]


@dataclass(frozen=True)
class Fault:
    """One thing that is not as promised, in the file where it stands."""

    file: str
    words: str


@dataclass(frozen=True)
class Finding:
    """One check of one version; `about` says what was looked at, or why nothing was."""

    check: str
    result: Result
    about: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class VersionReport:
    """All checks of one version. `sealed` is whether it has a manifest, which alone makes a changed bit visible."""

    folder: str
    version: int
    sealed: bool
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> Iterator[Fault]:
        """Everything that is not as promised."""
        return (fault for finding in self.findings for fault in finding.faults)


def found(check: str, about: str, faults: Sequence[Fault]) -> Finding:
    """Return a finding that holds where there are no faults."""
    return Finding(check, "fails" if faults else "holds", about, tuple(faults))


def visible(text: str) -> str:
    """Return `text` on one line, with an escape for each character that would steer a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
