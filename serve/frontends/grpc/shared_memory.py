"""The RPCs about shared memory."""

from protos import inference
from serve.frontends.grpc.inference import Handler
from serve.shared_memory.regions import Regions

CudaStatus = inference.CudaSharedMemoryStatusResponse
SystemStatus = inference.SystemSharedMemoryStatusResponse


class SharedMemoryService:
    """Regions of the system's shared memory and, where there is a GPU, of its memory."""

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

    async def _cuda_status(self, request: inference.CudaSharedMemoryStatusRequest) -> CudaStatus:
        answer = CudaStatus()
        for each in self._regions.registered(request.name, "cuda"):
            status = CudaStatus.RegionStatus(name=each.name, device_id=each.device, byte_size=each.size)
            answer.regions[each.name].CopyFrom(status)
        return answer

    async def _cuda_register(
        self, request: inference.CudaSharedMemoryRegisterRequest
    ) -> inference.CudaSharedMemoryRegisterResponse:
        self._regions.register_cuda(request.name, request.raw_handle, request.device_id, request.byte_size)
        return inference.CudaSharedMemoryRegisterResponse()

    async def _cuda_unregister(
        self, request: inference.CudaSharedMemoryUnregisterRequest
    ) -> inference.CudaSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name, "cuda")
        return inference.CudaSharedMemoryUnregisterResponse()
