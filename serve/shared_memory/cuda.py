"""A GPU's memory that another process has allocated and shares by a handle, through the driver's own library.

The driver's functions and their constants are those of NVIDIA's "CUDA Driver API", chapters 6.8, 6.7 and 6.13.
"""

import ctypes
from typing import Any

from serve.devices import cuda
from serve.errors import InvalidRequestError, NoSharedMemoryError, UnsupportedError

HANDLE_BYTES = 64  # CU_IPC_HANDLE_SIZE
LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is


class Handle(ctypes.Structure):
    """CUipcMemHandle, which travels by value."""

    _fields_ = [("reserved", ctypes.c_ubyte * HANDLE_BYTES)]


class CudaMemory:
    """Memory of GPU number `device` that `handle` stands for; `driver` is the loaded libcuda."""

    def __init__(self, driver: Any, handle: bytes, device: int) -> None:
        self._driver, self._context, self._pointer = driver, ctypes.c_void_p(), ctypes.c_uint64()
        self.closed = False
        self._device = ctypes.c_int()
        self._check(driver.cuDeviceGet(ctypes.byref(self._device), ctypes.c_int(device)), "find the device")
        self._check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self._device), "use the device")
        try:
            self._enter()
            opened = Handle.from_buffer_copy(handle)
            flags = ctypes.c_uint(LAZY_PEER_ACCESS)
            self._check(driver.cuIpcOpenMemHandle_v2(ctypes.byref(self._pointer), opened, flags), "open the handle")
        except NoSharedMemoryError:
            driver.cuDevicePrimaryCtxRelease_v2(self._device)
            raise

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`. Raises: NoSharedMemoryError."""
        self._enter()
        data = ctypes.create_string_buffer(size)
        there = ctypes.c_uint64(self._pointer.value + offset)
        self._check(self._driver.cuMemcpyDtoH_v2(data, there, ctypes.c_size_t(size)), "read")
        return data.raw

    def write(self, data: bytes, offset: int) -> None:
        """Put `data` at `offset`. Raises: NoSharedMemoryError."""
        self._enter()
        there = ctypes.c_uint64(self._pointer.value + offset)
        self._check(self._driver.cuMemcpyHtoD_v2(there, data, ctypes.c_size_t(len(data))), "write")

    def close(self) -> None:
        """Let the memory go; its owner keeps it."""
        self.closed = True
        self._enter()
        self._driver.cuIpcCloseMemHandle(self._pointer)
        self._driver.cuDevicePrimaryCtxRelease_v2(self._device)

    def _enter(self) -> None:
        """Make the device's context that of the calling thread."""
        self._check(self._driver.cuCtxSetCurrent(self._context), "use the device")

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status:
            raise NoSharedMemoryError(f"the NVIDIA driver cannot {what}: it answers {status}.")


def open_cuda_memory(name: str, handle: bytes, device: int, size: int) -> CudaMemory:
    """Open `size` bytes that a client shares as region `name`.

    Raises:
        UnsupportedError: this machine has no GPU that could be used.
        InvalidRequestError: the region has no name or no size, or the handle or the device cannot be one.
        NoSharedMemoryError: the driver does not open it.
    """
    lacking = cuda.missing()
    if lacking:
        words = f"region '{name}': this server takes no tensors from a GPU's memory, because {lacking}"
        raise UnsupportedError(f"{words} Use system shared memory instead.")
    if not name or size == 0:
        raise InvalidRequestError(f"region '{name}': a region has a name and a byte_size above 0; got {size}.")
    if len(handle) != HANDLE_BYTES or device < 0:
        raise InvalidRequestError(
            f"region '{name}': a raw_handle has {HANDLE_BYTES} bytes, and a device_id is 0 or more; "
            f"got {len(handle)} bytes and {device}."
        )
    return CudaMemory(ctypes.CDLL(cuda.DRIVER), handle, device)
