"""The results of the checks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

Status = Literal["verified", "failed", "not run"]


@dataclass(frozen=True)
class Failure:
    """One difference from the expectation, and the file that has it."""

    file: str
    message: str


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of one version.

    Attributes:
        check: Name of the check.
        status: "verified", "failed" or "not run".
        details: What was checked, or why the check did not run.
        failures: All differences; empty unless the check failed.
    """

    check: str
    status: Status
    details: str
    failures: tuple[Failure, ...] = ()

    @classmethod
    def from_failures(cls, check: str, details: str, failures: Sequence[Failure]) -> Self:
        """Return a result that is verified if there are no failures."""
        return cls(check, "failed" if failures else "verified", details, tuple(failures))

    @classmethod
    def not_run(cls, check: str, reason: str) -> Self:
        """Return the result of a check that did not run."""
        return cls(check, "not run", reason)


@dataclass(frozen=True)
class VersionReport:
    """The results of all checks of one version.

    Attributes:
        folder: The version's folder.
        version: Its number.
        has_manifest: Whether a manifest lists its files; without one, a changed bit cannot be detected.
        results: One entry per check, in the order in which they ran.
    """

    folder: str
    version: int
    has_manifest: bool
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> Iterator[Failure]:
        """The failures of all checks."""
        return (failure for result in self.results for failure in result.failures)


def printable(text: str) -> str:
    """Return `text` on one line, with control characters escaped, so that it cannot control a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
