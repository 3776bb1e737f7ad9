"""Regions of POSIX shared memory, in which tensors stand that do not travel in messages.

A region is read and written through its file, never mapped: a client that cuts its region short then gets an error,
where a mapping would end the server.
"""

import os
import re
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from serve.errors import (
    InvalidRequestError,
    NoSharedMemoryError,
    OutputTooLargeError,
    RegionExistsError,
    UnknownRegionError,
)

PLACE = Path("/dev/shm")  # noqa: S108  that is where POSIX shared memory is
KEY = re.compile(r"/?[^/\0]{1,255}")


@dataclass(frozen=True, eq=False)
class Region:
    """A registered region: `size` bytes from `offset` of what the operating system calls `key`."""

    name: str
    key: str
    offset: int
    size: int
    file: FileIO


@dataclass(frozen=True)
class Place:
    """Where one tensor stands: `size` bytes from `offset` of a region."""

    region: Region
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes. Raises: InvalidRequestError, where the region was cut short."""
        data = os.pread(self._file(), self.size, self.region.offset + self.offset)
        if len(data) != self.size:
            raise InvalidRequestError(f"shared-memory region '{self.region.name}' is shorter than it was registered.")
        return data

    def write(self, data: bytes) -> None:
        """Put the bytes there. Raises: OutputTooLargeError."""
        if len(data) > self.size:
            raise OutputTooLargeError(
                f"an output of {len(data)} bytes does not fit into the {self.size} that it was given in shared-memory "
                f"region '{self.region.name}'."
            )
        os.pwrite(self._file(), data, self.region.offset + self.offset)

    def _file(self) -> int:
        if self.region.file.closed:
            raise UnknownRegionError(f"shared-memory region '{self.region.name}' was unregistered meanwhile.")
        return self.region.file.fileno()


class Regions:
    """The regions that clients have registered, by name."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open a region.

        Raises:
            RegionExistsError: the name is taken.
            NoSharedMemoryError: there is nothing under that key.
            InvalidRequestError: the region is empty, or larger than what is there.
        """
        if name in self._regions:
            raise RegionExistsError(f"shared-memory region '{name}' is registered already.")
        if not name or not KEY.fullmatch(key) or key.strip("/") in (".", ".."):
            raise InvalidRequestError(f"region '{name}': a region has a name and a key such as '/frames'; got '{key}'.")
        if size == 0:
            raise InvalidRequestError(f"shared-memory region '{name}' has a byte_size of 0.")
        file = _open(key)
        there = os.fstat(file.fileno()).st_size
        if offset + size > there:
            file.close()
            raise InvalidRequestError(f"region '{name}' would end at byte {offset + size}, but '{key}' has {there}.")
        self._regions[name] = Region(name, key, offset, size, file)

    def unregister(self, name: str) -> None:
        """Let a region go, or without a name all; one that is not there is no error."""
        for each in [name] if name else list(self._regions):
            region = self._regions.pop(each, None)
            if region:
                region.file.close()

    def registered(self, name: str) -> list[Region]:
        """Return a region, or without a name all. Raises: UnknownRegionError."""
        if name and name not in self._regions:
            raise UnknownRegionError(f"no shared-memory region '{name}' is registered.")
        return [self._regions[name]] if name else list(self._regions.values())

    def place(self, name: str, offset: int, size: int) -> Place:
        """Return a place within a region.

        Raises:
            UnknownRegionError: it is not registered.
            InvalidRequestError: the place is not within it.
        """
        if not name or name not in self._regions:
            raise UnknownRegionError(f"no shared-memory region '{name}' is registered.")
        region = self._regions[name]
        if offset + size > region.size:
            raise InvalidRequestError(
                f"bytes {offset} to {offset + size} are asked for, but shared-memory region '{name}' has {region.size}."
            )
        return Place(region, offset, size)


def _open(key: str) -> FileIO:
    """Open a plain file that stands in the place of shared memory itself, and nothing that a link leads to."""
    try:
        descriptor = os.open(PLACE / key.lstrip("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NoSharedMemoryError(f"there is no shared memory '{key}' to open: {error.strerror}.") from error
    file = FileIO(descriptor, "r+")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise NoSharedMemoryError(f"'{key}' is no shared memory.")
    return file
