"""Tests of GPU shared memory with a fake driver, whose functions copy bytes within this process."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from serve.devices import cuda
from serve.errors import InvalidRequestError, NoSharedMemoryError, RegionExistsError, UnknownRegionError
from serve.shared_memory import cuda as cuda_memory
from serve.shared_memory.regions import Regions

HANDLE = bytes(range(64))


class FakeDriver:
    """A driver with one device and one valid handle, which refers to `memory`."""

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
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    driver = FakeDriver()
    monkeypatch.setattr(cuda, "missing", lambda: None)
    monkeypatch.setattr(cuda_memory.ctypes, "CDLL", lambda _: driver)
    yield driver
    assert (driver.contexts, driver.handles) == (0, 0), "a context or handle was not released"


def test_read_and_write(driver: FakeDriver) -> None:
    """Bytes are read and written at their offsets; an unregistered region is unknown."""
    regions = Regions()
    regions.register_cuda("gpu", HANDLE, 0, 8)
    placement = regions.placement("gpu", 2, 4)
    assert placement.read() == b"cdef"
    placement.write(b"XYZ")
    assert driver.memory.raw == b"abXYZfgh"
    regions.unregister("", "cuda")
    with pytest.raises(UnknownRegionError, match="was unregistered in the meantime"):
        placement.read()


def test_kinds_do_not_mix(driver: FakeDriver) -> None:
    """System and GPU regions share one namespace, but are listed and unregistered separately."""
    regions = Regions()
    regions.register_cuda("gpu", HANDLE, 0, 8)
    with pytest.raises(RegionExistsError):
        regions.register("gpu", "/x", 0, 8)
    regions.unregister("")
    assert regions.registered("", "system") == []
    assert [(region.name, region.device, region.size) for region in regions.registered("gpu", "cuda")] == [
        ("gpu", 0, 8)
    ]
    regions.unregister("gpu", "cuda")
    assert regions.registered("", "cuda") == []


@pytest.mark.parametrize(
    ("handle", "device", "size", "error", "message"),
    [
        (HANDLE[:63], 0, 8, InvalidRequestError, "a raw_handle has 64 bytes"),
        (HANDLE, -1, 8, InvalidRequestError, "device_id is 0 or more"),
        (HANDLE, 0, 0, InvalidRequestError, "byte_size above 0"),
        (HANDLE, 1, 8, NoSharedMemoryError, "cannot find the device: it returned 101"),
        (bytes(64), 0, 8, NoSharedMemoryError, "cannot open the handle: it returned 400"),
    ],
)
def test_invalid_regions(
    driver: FakeDriver, handle: bytes, device: int, size: int, error: type[Exception], message: str
) -> None:
    """A region that cannot be opened is an error, and leaves nothing open."""
    with pytest.raises(error, match=message):
        Regions().register_cuda("gpu", handle, device, size)
