"""Shared-memory regions that clients register, for tensors that are not sent in messages.

A region of POSIX shared memory is accessed through its file and never mapped: if a client truncates the region, access
fails with an error, whereas a mapping would crash the server.
"""

import os
import re
import stat
import threading
from dataclasses import dataclass, field
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

SHM_FOLDER = Path("/dev/shm")  # noqa: S108  the location of POSIX shared memory
Kind = Literal["system", "cuda"]
KEY = re.compile(r"/?[^/\0]{1,255}")


class Memory(Protocol):
    """The memory of a region."""

    closed: bool

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; fewer if the memory ends earlier."""

    def write(self, data: bytes, offset: int) -> None:
        """Write `data` at `offset`."""

    def close(self) -> None:
        """Release the memory; its owner keeps it."""


class SystemMemory:
    """POSIX shared memory, accessed through its file."""

    def __init__(self, file: FileIO) -> None:
        self._file, self.closed = file, False

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; fewer if the file ends earlier."""
        return os.pread(self._file.fileno(), size, offset)

    def write(self, data: bytes, offset: int) -> None:
        """Write `data` at `offset`."""
        os.pwrite(self._file.fileno(), data, offset)

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()


@dataclass(frozen=True, eq=False)
class Region:
    """A registered region.

    Attributes:
        name: The name under which requests refer to it.
        key: The operating system's name for the memory; empty for GPU memory.
        offset: First byte of the region within the memory.
        size: Size in bytes.
        memory: The opened memory.
        device: Number of the GPU; None for system memory.
        lock: Held while the memory is accessed or released: its file's number may be reused once it is closed.
    """

    name: str
    key: str
    offset: int
    size: int
    memory: Memory
    device: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True)
class Placement:
    """The location of one tensor in shared memory: `size` bytes from `offset` of a region."""

    region: Region
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes. Raises: InvalidRequestError if the region was truncated."""
        with self.region.lock:
            data = self._memory().read(self.region.offset + self.offset, self.size)
        if len(data) != self.size:
            raise InvalidRequestError(f"shared-memory region '{self.region.name}' is shorter than its registered size.")
        return data

    def write(self, data: bytes) -> None:
        """Write the bytes. Raises: OutputTooLargeError."""
        if len(data) > self.size:
            raise OutputTooLargeError(
                f"an output of {len(data)} bytes does not fit into the {self.size} bytes reserved for it in "
                f"shared-memory region '{self.region.name}'."
            )
        with self.region.lock:
            self._memory().write(data, self.region.offset + self.offset)

    def _memory(self) -> Memory:
        if self.region.memory.closed:
            raise UnknownRegionError(f"shared-memory region '{self.region.name}' was unregistered in the meantime.")
        return self.region.memory


class Regions:
    """The registered regions, by name. One thread registers and unregisters; any thread reads and writes."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open and register a region of system memory.

        Raises:
            RegionExistsError: The name is already registered.
            NoSharedMemoryError: There is no shared memory under that key.
            InvalidRequestError: The name, key or size is invalid, or the region exceeds the shared memory.
        """
        self._require_new(name)
        if not name or not KEY.fullmatch(key) or key.strip("/") in (".", ".."):
            raise InvalidRequestError(
                f"region '{name}': a region needs a name, and a key such as '/frames'; got '{key}'."
            )
        if size == 0:
            raise InvalidRequestError(f"shared-memory region '{name}' has a byte_size of 0.")
        file = _open(key)
        file_size = os.fstat(file.fileno()).st_size
        if offset + size > file_size:
            file.close()
            raise InvalidRequestError(
                f"region '{name}' would end at byte {offset + size}, but '{key}' has {file_size} bytes."
            )
        self._regions[name] = Region(name, key, offset, size, SystemMemory(file))

    def register_cuda(self, name: str, handle: bytes, device: int, size: int) -> None:
        """Open and register a region of GPU memory.

        Raises:
            RegionExistsError: The name is already registered.
            UnsupportedError: This machine has no usable GPU.
            NoSharedMemoryError: The driver cannot open the handle.
            InvalidRequestError: The name, size, handle or device number is invalid.
        """
        self._require_new(name)
        self._regions[name] = Region(name, "", 0, size, open_cuda_memory(name, handle, device, size), device)

    def unregister(self, name: str, kind: Kind = "system") -> None:
        """Release a region of a kind, or all if `name` is empty; an unregistered name has no effect."""
        for region in self._of_kind(kind):
            if name in ("", region.name):
                del self._regions[region.name]
                with region.lock:
                    region.memory.close()

    def registered(self, name: str, kind: Kind = "system") -> list[Region]:
        """Return a region of a kind, or all if `name` is empty. Raises: UnknownRegionError."""
        regions = [region for region in self._of_kind(kind) if name in ("", region.name)]
        if name and not regions:
            raise UnknownRegionError(f"no shared-memory region '{name}' is registered.")
        return regions

    def _of_kind(self, kind: Kind) -> list[Region]:
        return [region for region in self._regions.values() if (region.device is None) == (kind == "system")]

    def _require_new(self, name: str) -> None:
        if name in self._regions:
            raise RegionExistsError(f"shared-memory region '{name}' is already registered.")

    def placement(self, name: str, offset: int, size: int) -> Placement:
        """Return the placement of `size` bytes from `offset` in a region.

        Raises:
            UnknownRegionError: The region is not registered.
            InvalidRequestError: The bytes are not within the region.
        """
        region = self._regions.get(name)
        if region is None:
            raise UnknownRegionError(f"no shared-memory region '{name}' is registered.")
        if offset + size > region.size:
            raise InvalidRequestError(
                f"a tensor refers to bytes {offset} to {offset + size}, but shared-memory region '{name}' has "
                f"{region.size} bytes."
            )
        return Placement(region, offset, size)


def _open(key: str) -> FileIO:
    """Open a regular file directly in SHM_FOLDER, without following links."""
    try:
        descriptor = os.open(SHM_FOLDER / key.lstrip("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NoSharedMemoryError(f"shared memory '{key}' cannot be opened: {error.strerror}.") from error
    file = FileIO(descriptor, "r+")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise NoSharedMemoryError(f"'{key}' is not shared memory.")
    return file
