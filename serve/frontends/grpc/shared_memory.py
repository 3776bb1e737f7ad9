"""RPCs that register and unregister shared memory."""

from protos import inference
from serve.frontends.grpc.inference import Handler
from serve.shared_memory.regions import Regions

CudaStatus = inference.CudaSharedMemoryStatusResponse
SystemStatus = inference.SystemSharedMemoryStatusResponse


class SharedMemoryService:
    """Regions of system shared memory and, with a GPU, of GPU memory."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by RPC name."""
        return {
            "SystemSharedMemoryStatus": self._status,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
        }

    async def _status(self, request: inference.SystemSharedMemoryStatusRequest) -> SystemStatus:
        response = SystemStatus()
        for region in self._regions.registered(request.name):
            status = SystemStatus.RegionStatus(
                name=region.name, key=region.key, offset=region.offset, byte_size=region.size
            )
            response.regions[region.name].CopyFrom(status)
        return response

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
        response = CudaStatus()
        for region in self._regions.registered(request.name, "cuda"):
            status = CudaStatus.RegionStatus(name=region.name, device_id=region.device, byte_size=region.size)
            response.regions[region.name].CopyFrom(status)
        return response

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
