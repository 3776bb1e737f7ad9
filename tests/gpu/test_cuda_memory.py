"""Tensors in GPU memory that is shared with the server by a CUDA IPC handle."""

import ctypes
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from bench.serving import Server
from protos import inference
from serve.client.rpc import METHODS
from serve.shared_memory.cuda import Handle
from tests.gpu.conftest import images, max_relative_error, reference_outputs
from zoo.runs.load import LoadedNetwork

pytestmark = pytest.mark.gpu
SharedMemory = tuple[Any, ctypes.c_uint64, bytes]


@pytest.fixture
def shared(device: str) -> Iterator[SharedMemory | None]:
    """The CUDA driver, the address of 1 MiB of GPU memory, and its IPC handle; None in a dry run."""
    if device != "cuda":  # a dry run has no GPU memory
        yield None
        return
    torch.zeros(1, device="cuda")  # creates the CUDA context
    driver, pointer, handle = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64(), Handle()
    assert driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(2**20)) == 0
    assert driver.cuIpcGetMemHandle(ctypes.byref(handle), pointer) == 0
    yield driver, pointer, bytes(handle.reserved)
    driver.cuMemFree_v2(pointer)


def test_input_in_gpu_memory(server: Server, network: LoadedNetwork, shared: SharedMemory | None) -> None:
    """An image in shared GPU memory is classified; the request holds none of its data."""
    if shared is None:
        return
    driver, pointer, handle = shared
    x = images(1, network)
    assert driver.cuMemcpyHtoD_v2(pointer, x.tobytes(), ctypes.c_size_t(x.nbytes)) == 0
    register = inference.CudaSharedMemoryRegisterRequest(
        name="image", raw_handle=handle, device_id=0, byte_size=x.nbytes
    )
    request = inference.ModelInferRequest(model_name="fp32")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=x.shape)
    tensor.parameters["shared_memory_region"].string_param = "image"
    tensor.parameters["shared_memory_byte_size"].int64_param = x.nbytes
    request.outputs.add(name="logits")
    with grpc.insecure_channel(server.url) as channel:
        channel.unary_unary(METHODS["CudaSharedMemoryRegister"].path)(register.SerializeToString(), timeout=30)
        data = channel.unary_unary(METHODS["ModelInfer"].path)(request.SerializeToString(), timeout=30)
        channel.unary_unary(METHODS["CudaSharedMemoryUnregister"].path)(b"", timeout=30)
    logits = np.frombuffer(inference.ModelInferResponse.FromString(data).raw_output_contents[0], np.float32)
    assert max_relative_error(logits, reference_outputs(network, x, "")[""][0]) < 5e-3
