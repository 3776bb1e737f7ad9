"""GPU memory that another process shares by an IPC handle, accessed through the driver's library.

The driver's functions and their constants are those of NVIDIA's "CUDA Driver API", chapters 6.8, 6.7 and 6.13.
"""

import ctypes
from typing import Any

from serve.devices import cuda
from serve.errors import InvalidRequestError, NoSharedMemoryError, UnsupportedError

HANDLE_BYTES = 64  # CU_IPC_HANDLE_SIZE
LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag


class Handle(ctypes.Structure):
    """CUipcMemHandle, which is passed by value."""

    _fields_ = [("reserved", ctypes.c_ubyte * HANDLE_BYTES)]


class CudaMemory:
    """The memory of an IPC handle on GPU number `device`; `driver` is the loaded libcuda."""

    def __init__(self, driver: Any, handle: bytes, device: int) -> None:
        self._driver, self._context, self._pointer = driver, ctypes.c_void_p(), ctypes.c_uint64()
        self.closed = False
        self._device = ctypes.c_int()
        self._check(driver.cuDeviceGet(ctypes.byref(self._device), ctypes.c_int(device)), "find the device")
        self._check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self._device), "use the device")
        try:
            self._enter_context()
            ipc_handle = Handle.from_buffer_copy(handle)
            flags = ctypes.c_uint(LAZY_PEER_ACCESS)
            self._check(driver.cuIpcOpenMemHandle_v2(ctypes.byref(self._pointer), ipc_handle, flags), "open the handle")
        except NoSharedMemoryError:
            driver.cuDevicePrimaryCtxRelease_v2(self._device)
            raise

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`. Raises: NoSharedMemoryError."""
        self._enter_context()
        data = ctypes.create_string_buffer(size)
        address = ctypes.c_uint64(self._pointer.value + offset)
        self._check(self._driver.cuMemcpyDtoH_v2(data, address, ctypes.c_size_t(size)), "read")
        return data.raw

    def write(self, data: bytes, offset: int) -> None:
        """Write `data` at `offset`. Raises: NoSharedMemoryError."""
        self._enter_context()
        address = ctypes.c_uint64(self._pointer.value + offset)
        self._check(self._driver.cuMemcpyHtoD_v2(address, data, ctypes.c_size_t(len(data))), "write")

    def close(self) -> None:
        """Close the handle; its owner keeps the memory."""
        self.closed = True
        self._enter_context()
        self._driver.cuIpcCloseMemHandle(self._pointer)
        self._driver.cuDevicePrimaryCtxRelease_v2(self._device)

    def _enter_context(self) -> None:
        """Make the device's context current in the calling thread."""
        self._check(self._driver.cuCtxSetCurrent(self._context), "use the device")

    @staticmethod
    def _check(status: int, action: str) -> None:
        if status:
            raise NoSharedMemoryError(f"the NVIDIA driver cannot {action}: it returned {status}.")


def open_cuda_memory(name: str, handle: bytes, device: int, size: int) -> CudaMemory:
    """Open `size` bytes of GPU memory that a client shares as region `name`.

    Raises:
        UnsupportedError: This machine has no usable GPU.
        InvalidRequestError: The region has no name or no size, or the handle or device number is invalid.
        NoSharedMemoryError: The driver cannot open the handle.
    """
    missing = cuda.missing()
    if missing:
        reason = f"region '{name}': this server does not support GPU shared memory, because {missing}"
        raise UnsupportedError(f"{reason} Use system shared memory instead.")
    if not name or size == 0:
        raise InvalidRequestError(f"region '{name}': a region needs a name and a byte_size above 0; got {size}.")
    if len(handle) != HANDLE_BYTES or device < 0:
        raise InvalidRequestError(
            f"region '{name}': a raw_handle has {HANDLE_BYTES} bytes, and a device_id is 0 or more; "
            f"got {len(handle)} bytes and {device}."
        )
    return CudaMemory(ctypes.CDLL(cuda.DRIVER), handle, device)
