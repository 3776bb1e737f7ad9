"""Tests of tensors in system shared memory, by tritonclient, and of the server's log and trace settings."""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from serve.devices import cuda
from serve.errors import InvalidRequestError, UnknownRegionError
from serve.shared_memory.regions import Region, Regions

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture
def triton(url: str) -> Iterator[Any]:
    with tritonclient.grpc.InferenceServerClient(url) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def key() -> str:
    return f"/zoonnx-test-{uuid.uuid4().hex}"


@pytest.fixture
def memory(triton: Any, key: str) -> Iterator[Any]:
    """A registered region of 48 bytes with the name `region`; the first half is `X`."""
    handle = shm.create_shared_memory_region("region", key, 48)
    shm.set_shared_memory_region(handle, [X])
    triton.register_system_shared_memory("region", key, 48)
    yield handle
    shm.destroy_shared_memory_region(handle)


def status(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str]:
    """Return status and message of a call that fails."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def input_in_region(size: int = 24, offset: int = 0, region: str = "region") -> Any:
    tensor = tritonclient.grpc.InferInput("x", [2, 3], "FP32")
    tensor.set_shared_memory(region, size, offset)
    return tensor


def output_in_region(size: int, offset: int) -> Any:
    output = tritonclient.grpc.InferRequestedOutput("y")
    output.set_shared_memory("region", size, offset)
    return output


class TestInference:
    """Inputs and outputs in shared memory."""

    def test_both(self, triton: Any, memory: Any) -> None:
        """An input is read from the region and an output written to it; the response has only its description."""
        response = triton.infer("bare", [input_in_region()], outputs=[output_in_region(24, 24)]).get_response()
        assert [(output.name, output.datatype, list(output.shape)) for output in response.outputs] == [
            ("y", "FP32", [2, 3])
        ]
        assert list(response.raw_output_contents) == [b""]
        np.testing.assert_array_equal(shm.get_contents_as_numpy(memory, np.float32, [2, 3], 24), X)

    def test_beside_ordinary_tensors(self, triton: Any, memory: Any) -> None:
        """One input may be in shared memory and another in the message."""
        first, second = (tritonclient.grpc.InferInput(name, [2, 3], "FP32") for name in "ab")
        first.set_data_from_numpy(X)
        second.set_shared_memory("region", 24)
        for inputs in ([first, second], [second, first]):
            np.testing.assert_array_equal(triton.infer("arithmetic", inputs).as_numpy("sum"), X + X)

    def test_text(self, triton: Any, memory: Any) -> None:
        """Strings may be in shared memory too, each preceded by its length."""
        strings = np.array([["a", "zürich"]], np.object_)
        shm.set_shared_memory_region(memory, [serialize_byte_tensor(strings)])
        text = tritonclient.grpc.InferInput("x", [1, 2], "BYTES")
        text.set_shared_memory("region", 4 + 1 + 4 + 7)
        triton.infer("text", [text], outputs=[output_in_region(16, 16)])
        actual = shm.get_contents_as_numpy(memory, np.object_, [1, 2], 16)
        assert actual.tolist() == [[b"a", "zürich".encode()]]

    def test_region_survives_unlink(self, triton: Any, memory: Any, key: str) -> None:
        """A client may unlink the memory after registering it."""
        Path("/dev/shm", key.lstrip("/")).unlink()
        np.testing.assert_array_equal(triton.infer("bare", [input_in_region()]).as_numpy("y"), X)
        shm.create_shared_memory_region("region", key, 48)

    def test_a_truncated_region(self, triton: Any, memory: Any, key: str) -> None:
        """If a client truncates its region, its request fails and the server survives."""
        os.truncate(Path("/dev/shm", key.lstrip("/")), 8)
        assert status(triton.infer, "bare", [input_in_region()])[0] == "INVALID_ARGUMENT"
        assert triton.is_server_live()

    @pytest.mark.parametrize(
        ("tensor", "placement", "expected", "message"),
        [
            (input_in_region(region="nothing"), (24, 24), "NOT_FOUND", "no shared-memory region 'nothing'"),
            (input_in_region(25, 24), (24, 24), "INVALID_ARGUMENT", "bytes 24 to 49"),
            (input_in_region(12), (24, 24), "INVALID_ARGUMENT", "needs 24 bytes; got 12"),
            (input_in_region(), (24, 25), "INVALID_ARGUMENT", "bytes 25 to 49"),
            (input_in_region(), (23, 24), "INTERNAL", "24 bytes does not fit into the 23"),
        ],
    )
    def test_bounds(
        self, triton: Any, memory: Any, tensor: Any, placement: tuple[int, int], expected: str, message: str
    ) -> None:
        """A tensor outside its region has Triton's status, and nothing is written."""
        code, actual = status(triton.infer, "bare", [tensor], outputs=[output_in_region(*placement)])
        assert (code, message in actual) == (expected, True)
        assert not shm.get_contents_as_numpy(memory, np.uint8, [24], 24).any()


class TestRegions:
    """Registering and unregistering regions."""

    def test_status(self, triton: Any, memory: Any, key: str) -> None:
        """The status lists a region until it is unregistered."""
        (region,) = triton.get_system_shared_memory_status().regions.values()
        assert (region.name, region.key, region.offset, region.byte_size) == ("region", key, 0, 48)
        triton.unregister_system_shared_memory("region")
        assert not triton.get_system_shared_memory_status().regions
        assert status(triton.get_system_shared_memory_status, "region")[0] == "NOT_FOUND"
        triton.unregister_system_shared_memory("region")

    def test_offset_is_applied_once(self, triton: Any, memory: Any, key: str) -> None:
        """A region at an offset of the shared memory is read from there, page-aligned or not."""
        for offset in (12, 0):
            triton.register_system_shared_memory(f"from {offset}", key, 24, offset)
            inputs = [input_in_region(region=f"from {offset}")]
            expected = np.array([[4, 5, 6], [0, 0, 0]]) if offset else X
            np.testing.assert_array_equal(triton.infer("bare", inputs).as_numpy("y"), expected)
        large = f"{key}-large"
        handle = shm.create_shared_memory_region("large", large, 8192 + 24)
        shm.set_shared_memory_region(handle, [X], 4096)
        triton.register_system_shared_memory("page", large, 4096, 4096)
        np.testing.assert_array_equal(triton.infer("bare", [input_in_region(region="page")]).as_numpy("y"), X)
        shm.destroy_shared_memory_region(handle)

    @pytest.mark.parametrize(
        ("name", "exists", "size", "offset", "expected"),
        [
            ("region", True, 48, 0, "ALREADY_EXISTS"),
            ("new", False, 48, 0, "INTERNAL"),
            ("new", True, 0, 0, "INVALID_ARGUMENT"),
            ("new", True, 49, 0, "INVALID_ARGUMENT"),
            ("new", True, 1, 48, "INVALID_ARGUMENT"),
            ("new", True, 2**64 - 1, 2**63, "INVALID_ARGUMENT"),
        ],
    )
    def test_invalid_registrations(
        self, triton: Any, memory: Any, key: str, name: str, exists: bool, size: int, offset: int, expected: str
    ) -> None:
        """Each invalid registration has Triton's status."""
        shm_key = key if exists else "/zoonnx-test-nothing"
        assert status(triton.register_system_shared_memory, name, shm_key, size, offset)[0] == expected

    @pytest.mark.parametrize("invalid_key", ["../etc/passwd", "/a/b", "", "/..", "."])
    def test_keys_are_not_paths(self, triton: Any, invalid_key: str) -> None:
        """A key that is a path to another folder is invalid."""
        assert status(triton.register_system_shared_memory, "new", invalid_key, 1)[0] == "INVALID_ARGUMENT"

    def test_links_are_not_followed(self, triton: Any, key: str, tmp_path: Path) -> None:
        """A symbolic link among the shared memory is not opened."""
        (tmp_path / "secret").write_bytes(bytes(100))
        link = Path("/dev/shm", key.lstrip("/"))
        link.symlink_to(tmp_path / "secret")
        try:
            assert status(triton.register_system_shared_memory, "new", key, 1)[0] == "INTERNAL"
        finally:
            link.unlink()

    def test_files_are_closed(self, memory: Any, key: str) -> None:
        """Rejected and unregistered regions leave no open files."""
        regions = Regions()
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(InvalidRequestError):
            regions.register("a", key, 0, 49)
        regions.register("b", key, 0, 48)
        regions.unregister("")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_cuda(self, triton: Any) -> None:
        """Without a GPU, registering GPU memory is UNIMPLEMENTED with the reason; unregistering it has no effect."""
        if cuda.missing() is None:
            pytest.skip("there is a GPU")
        code, message = status(triton.register_cuda_shared_memory, "new", b"aGFuZGxl", 0, 64)
        assert (code, "because there is no" in message or "because the NVIDIA driver" in message) == (
            "UNIMPLEMENTED",
            True,
        )
        assert not triton.get_cuda_shared_memory_status().regions
        triton.unregister_cuda_shared_memory()


class TestSettings:
    """Log settings and trace settings."""

    def test_log_settings(self, triton: Any) -> None:
        """Log settings can be read and changed; a request with an invalid one changes nothing."""
        assert triton.get_log_settings().settings["log_info"].bool_param
        changed = triton.update_log_settings({"log_info": False, "log_verbose_level": 2}).settings
        assert (changed["log_info"].bool_param, changed["log_verbose_level"].uint32_param) == (False, 2)
        assert status(triton.update_log_settings, {"log_error": False, "nothing": True})[0] == "INVALID_ARGUMENT"
        assert status(triton.update_log_settings, {"log_file": "/tmp/log"})[0] == "UNIMPLEMENTED"
        assert triton.get_log_settings().settings["log_error"].bool_param
        triton.update_log_settings({"log_info": True, "log_verbose_level": 0})

    def test_tracing_is_off(self, triton: Any) -> None:
        """Tracing is reported as off and cannot be enabled."""
        assert list(triton.get_trace_settings().settings["trace_level"].value) == ["OFF"]
        assert status(triton.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})[0] == "UNIMPLEMENTED"
        assert status(triton.update_trace_settings, settings={"nothing": "1"})[0] == "INVALID_ARGUMENT"


class SlowMemory:
    """Memory whose reads wait for `go`, and fail once it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self.reading, self.go = threading.Event(), threading.Event()

    def read(self, _offset: int, size: int) -> bytes:
        self.reading.set()
        assert self.go.wait(10)
        assert not self.closed
        return bytes(size)

    def write(self, data: bytes, offset: int) -> None:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def test_unregistering_waits_for_a_read() -> None:
    """A region is released after a read in another thread, which could otherwise read another client's file."""
    regions, memory = Regions(), SlowMemory()
    regions._regions["r"] = Region("r", "/r", 0, 4, memory)
    placement = regions.placement("r", 0, 4)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(placement.read)
        assert memory.reading.wait(10)
        unregistering = pool.submit(regions.unregister, "r")
        time.sleep(0.05)
        assert not memory.closed
        memory.go.set()
        assert reading.result(10) == bytes(4)
        unregistering.result(10)
    with pytest.raises(UnknownRegionError, match="unregistered in the meantime"):
        placement.read()
