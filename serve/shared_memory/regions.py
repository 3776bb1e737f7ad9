"""Regions of memory that clients share, in which tensors stand that do not travel in messages.

A region of POSIX shared memory is read and written through its file, never mapped: a client that cuts its region short
then gets an error, where a mapping would end the server.
"""

import os
import re
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, Protocol

from serve.errors import (
    InvalidRequestError,
    NoSharedMemoryError,
    OutputTooLargeError,
    RegionExistsError,
    UnknownRegionError,
)
from serve.shared_memory.cuda import open_cuda_memory

PLACE = Path("/dev/shm")  # noqa: S108  that is where POSIX shared memory is
Kind = Literal["system", "cuda"]
KEY = re.compile(r"/?[^/\0]{1,255}")


class Memory(Protocol):
    """What a region's bytes stand in."""

    closed: bool

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; fewer where it ends before."""

    def write(self, data: bytes, offset: int) -> None:
        """Put `data` at `offset`."""

    def close(self) -> None:
        """Let it go; who shares it keeps it."""


class SystemMemory:
    """POSIX shared memory, through its file."""

    def __init__(self, file: FileIO) -> None:
        self._file, self.closed = file, False

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; fewer where the file ends before."""
        return os.pread(self._file.fileno(), size, offset)

    def write(self, data: bytes, offset: int) -> None:
        """Put `data` at `offset`."""
        os.pwrite(self._file.fileno(), data, offset)

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()


@dataclass(frozen=True, eq=False)
class Region:
    """A registered region: `size` bytes from `offset` of what the operating system calls `key`.

    `device` is the GPU whose memory it is, None for the system's.
    """

    name: str
    key: str
    offset: int
    size: int
    memory: Memory
    device: int | None = None


@dataclass(frozen=True)
class Place:
    """Where one tensor stands: `size` bytes from `offset` of a region."""

    region: Region
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes. Raises: InvalidRequestError, where the region was cut short."""
        data = self._memory().read(self.region.offset + self.offset, self.size)
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
        self._memory().write(data, self.region.offset + self.offset)

    def _memory(self) -> Memory:
        if self.region.memory.closed:
            raise UnknownRegionError(f"shared-memory region '{self.region.name}' was unregistered meanwhile.")
        return self.region.memory


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
        self._check_new(name)
        if not name or not KEY.fullmatch(key) or key.strip("/") in (".", ".."):
            raise InvalidRequestError(f"region '{name}': a region has a name and a key such as '/frames'; got '{key}'.")
        if size == 0:
            raise InvalidRequestError(f"shared-memory region '{name}' has a byte_size of 0.")
        file = _open(key)
        there = os.fstat(file.fileno()).st_size
        if offset + size > there:
            file.close()
            raise InvalidRequestError(f"region '{name}' would end at byte {offset + size}, but '{key}' has {there}.")
        self._regions[name] = Region(name, key, offset, size, SystemMemory(file))

    def register_cuda(self, name: str, handle: bytes, device: int, size: int) -> None:
        """Open a region of a GPU's memory.

        Raises:
            RegionExistsError: the name is taken.
            UnsupportedError: this machine has no GPU that could be used.
            NoSharedMemoryError: the driver does not open what the handle stands for.
            InvalidRequestError: it has no name or no size, or the handle cannot be one.
        """
        self._check_new(name)
        self._regions[name] = Region(name, "", 0, size, open_cuda_memory(name, handle, device, size), device)

    def unregister(self, name: str, kind: Kind = "system") -> None:
        """Let a region of a kind go, or without a name all; one that is not there is no error."""
        for region in self._of(kind):
            if name in ("", region.name):
                del self._regions[region.name]
                region.memory.close()

    def registered(self, name: str, kind: Kind = "system") -> list[Region]:
        """Return a region of a kind, or without a name all. Raises: UnknownRegionError."""
        found = [region for region in self._of(kind) if name in ("", region.name)]
        if name and not found:
            raise UnknownRegionError(f"no shared-memory region '{name}' is registered.")
        return found

    def _of(self, kind: Kind) -> list[Region]:
        return [region for region in self._regions.values() if (region.device is None) == (kind == "system")]

    def _check_new(self, name: str) -> None:
        if name in self._regions:
            raise RegionExistsError(f"shared-memory region '{name}' is registered already.")

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
