"""A GPU's memory, through a driver that a stand-in plays: its functions move the bytes of this process."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from serve.devices import cuda
from serve.errors import InvalidRequestError, NoSharedMemoryError, RegionExistsError, UnknownRegionError
from serve.shared_memory import cuda as cuda_memory
from serve.shared_memory.regions import Regions

HANDLE = bytes(range(64))


class Driver:
    """Has one device, and one handle, for which it gives `memory`."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(b"abcdefgh", 8)
        self.contexts = self.handles = 0

    def cuDeviceGet(self, device: Any, number: Any) -> int:  # noqa: N802
        device._obj.value = number.value
        return 101 if number.value else 0

    def cuDevicePrimaryCtxRetain(self, context: Any, _: Any) -> int:  # noqa: N802
        context._obj.value, self.contexts = 7, self.contexts + 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, _: Any) -> int:  # noqa: N802
        self.contexts -= 1
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        return 0 if context.value == 7 else 201

    def cuIpcOpenMemHandle_v2(self, pointer: Any, handle: Any, flags: Any) -> int:  # noqa: N802
        if (bytes(handle.reserved), flags.value) != (HANDLE, 1):
            return 400
        pointer._obj.value, self.handles = ctypes.addressof(self.memory), self.handles + 1
        return 0

    def cuIpcCloseMemHandle(self, _: Any) -> int:  # noqa: N802
        self.handles -= 1
        return 0

    def cuMemcpyDtoH_v2(self, to: Any, source: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(to, source.value, size.value)
        return 0

    def cuMemcpyHtoD_v2(self, to: Any, source: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(to.value, source, size.value)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    driver = Driver()
    monkeypatch.setattr(cuda, "missing", lambda: None)
    monkeypatch.setattr(cuda_memory.ctypes, "CDLL", lambda _: driver)
    yield driver
    assert (driver.contexts, driver.handles) == (0, 0), "what was opened must be let go"


def test_read_and_write(driver: Driver) -> None:
    """Bytes are read from and written to their places; a region that is gone is unknown."""
    regions = Regions()
    regions.register_cuda("gpu", HANDLE, 0, 8)
    place = regions.place("gpu", 2, 4)
    assert place.read() == b"cdef"
    place.write(b"XYZ")
    assert driver.memory.raw == b"abXYZfgh"
    regions.unregister("", "cuda")
    with pytest.raises(UnknownRegionError, match="was unregistered meanwhile"):
        place.read()


def test_kinds_do_not_mix(driver: Driver) -> None:
    """The system's and a GPU's regions share their names, and are told and let go apart."""
    regions = Regions()
    regions.register_cuda("gpu", HANDLE, 0, 8)
    with pytest.raises(RegionExistsError):
        regions.register("gpu", "/x", 0, 8)
    regions.unregister("")
    assert regions.registered("", "system") == []
    assert [(each.name, each.device, each.size) for each in regions.registered("gpu", "cuda")] == [("gpu", 0, 8)]
    regions.unregister("gpu", "cuda")
    assert regions.registered("", "cuda") == []


@pytest.mark.parametrize(
    ("handle", "device", "size", "error", "words"),
    [
        (HANDLE[:63], 0, 8, InvalidRequestError, "a raw_handle has 64 bytes"),
        (HANDLE, -1, 8, InvalidRequestError, "device_id is 0 or more"),
        (HANDLE, 0, 0, InvalidRequestError, "byte_size above 0"),
        (HANDLE, 1, 8, NoSharedMemoryError, "cannot find the device: it answers 101"),
        (bytes(64), 0, 8, NoSharedMemoryError, "cannot open the handle: it answers 400"),
    ],
)
def test_bad_regions(driver: Driver, handle: bytes, device: int, size: int, error: type[Exception], words: str) -> None:
    """What cannot be opened is refused, and leaves nothing open."""
    with pytest.raises(error, match=words):
        Regions().register_cuda("gpu", handle, device, size)
