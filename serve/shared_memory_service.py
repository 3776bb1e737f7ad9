"""The RPCs about shared memory."""

from protos import inference
from serve.errors import UnsupportedError
from serve.service import Handler
from serve.shared_memory import Regions

SystemStatus = inference.SystemSharedMemoryStatusResponse


class SharedMemoryService:
    """Regions of the system's shared memory. There are never any of a GPU's, and registering one says so."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def handlers(self) -> dict[str, Handler]:
        """The RPCs of both kinds of memory."""
        return {
            "SystemSharedMemoryStatus": self._status,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
        }

    async def _status(self, request: inference.SystemSharedMemoryStatusRequest) -> SystemStatus:
        answer = SystemStatus()
        for each in self._regions.registered(request.name):
            status = SystemStatus.RegionStatus(name=each.name, key=each.key, offset=each.offset, byte_size=each.size)
            answer.regions[each.name].CopyFrom(status)
        return answer

    async def _register(
        self, request: inference.SystemSharedMemoryRegisterRequest
    ) -> inference.SystemSharedMemoryRegisterResponse:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return inference.SystemSharedMemoryRegisterResponse()

    async def _unregister(
        self, request: inference.SystemSharedMemoryUnregisterRequest
    ) -> inference.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name)
        return inference.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(
        self, _: inference.CudaSharedMemoryStatusRequest
    ) -> inference.CudaSharedMemoryStatusResponse:
        return inference.CudaSharedMemoryStatusResponse()

    async def _cuda_register(
        self, request: inference.CudaSharedMemoryRegisterRequest
    ) -> inference.CudaSharedMemoryRegisterResponse:
        raise UnsupportedError(
            f"region '{request.name}': this server takes no tensors from a GPU's memory; use system shared memory."
        )

    async def _cuda_unregister(
        self, _: inference.CudaSharedMemoryUnregisterRequest
    ) -> inference.CudaSharedMemoryUnregisterResponse:
        return inference.CudaSharedMemoryUnregisterResponse()
