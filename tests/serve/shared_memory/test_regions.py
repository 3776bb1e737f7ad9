"""Tensors in the system's shared memory, through tritonclient's own tools; and the server's settings."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from serve.devices import cuda
from serve.errors import InvalidRequestError
from serve.shared_memory.regions import Regions

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
    """48 registered bytes, called `region`: `X` stands in the first half."""
    handle = shm.create_shared_memory_region("region", key, 48)
    shm.set_shared_memory_region(handle, [X])
    triton.register_system_shared_memory("region", key, 48)
    yield handle
    shm.destroy_shared_memory_region(handle)


def status(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str]:
    """The status and the words of a refused call."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def tensor(size: int = 24, offset: int = 0, region: str = "region") -> Any:
    wanted = tritonclient.grpc.InferInput("x", [2, 3], "FP32")
    wanted.set_shared_memory(region, size, offset)
    return wanted


def output(size: int, offset: int) -> Any:
    wanted = tritonclient.grpc.InferRequestedOutput("y")
    wanted.set_shared_memory("region", size, offset)
    return wanted


class TestInference:
    """Inputs and outputs."""

    def test_both(self, triton: Any, memory: Any) -> None:
        """An input is read there and an output written there; the answer describes it, and carries nothing."""
        answer = triton.infer("bare", [tensor()], outputs=[output(24, 24)]).get_response()
        assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [("y", "FP32", [2, 3])]
        assert list(answer.raw_output_contents) == [b""]
        np.testing.assert_array_equal(shm.get_contents_as_numpy(memory, np.float32, [2, 3], 24), X)

    def test_beside_ordinary_tensors(self, triton: Any, memory: Any) -> None:
        """One input may stand there while another travels."""
        first, second = (tritonclient.grpc.InferInput(name, [2, 3], "FP32") for name in "ab")
        first.set_data_from_numpy(X)
        second.set_shared_memory("region", 24)
        for inputs in ([first, second], [second, first]):
            np.testing.assert_array_equal(triton.infer("arithmetic", inputs).as_numpy("sum"), X + X)

    def test_text(self, triton: Any, memory: Any) -> None:
        """Text stands there as well, each element behind its length."""
        words = np.array([["a", "zürich"]], np.object_)
        shm.set_shared_memory_region(memory, [serialize_byte_tensor(words)])
        wanted = tritonclient.grpc.InferInput("x", [1, 2], "BYTES")
        wanted.set_shared_memory("region", 4 + 1 + 4 + 7)
        triton.infer("text", [wanted], outputs=[output(16, 16)])
        found = shm.get_contents_as_numpy(memory, np.object_, [1, 2], 16)
        assert found.tolist() == [[b"a", "zürich".encode()]]

    def test_region_survives_unlink(self, triton: Any, memory: Any, key: str) -> None:
        """A client may remove the name at once."""
        Path("/dev/shm", key.lstrip("/")).unlink()
        np.testing.assert_array_equal(triton.infer("bare", [tensor()]).as_numpy("y"), X)
        shm.create_shared_memory_region("region", key, 48)

    def test_a_region_cut_short(self, triton: Any, memory: Any, key: str) -> None:
        """A client that cuts its region gets an error, and the server lives."""
        os.truncate(Path("/dev/shm", key.lstrip("/")), 8)
        assert status(triton.infer, "bare", [tensor()])[0] == "INVALID_ARGUMENT"
        assert triton.is_server_live()

    @pytest.mark.parametrize(
        ("inputs", "outputs", "expected", "words"),
        [
            (tensor(region="nothing"), (24, 24), "NOT_FOUND", "no shared-memory region 'nothing'"),
            (tensor(25, 24), (24, 24), "INVALID_ARGUMENT", "bytes 24 to 49"),
            (tensor(12), (24, 24), "INVALID_ARGUMENT", "takes 24 bytes, but 12 came"),
            (tensor(), (24, 25), "INVALID_ARGUMENT", "bytes 25 to 49"),
            (tensor(), (23, 24), "INTERNAL", "24 bytes does not fit into the 23"),
        ],
    )
    def test_bounds(
        self, triton: Any, memory: Any, inputs: Any, outputs: tuple[int, int], expected: str, words: str
    ) -> None:
        """A tensor outside its region is refused with Triton's status; nothing is written."""
        found, said = status(triton.infer, "bare", [inputs], outputs=[output(*outputs)])
        assert (found, words in said) == (expected, True)
        assert not shm.get_contents_as_numpy(memory, np.uint8, [24], 24).any()


class TestRegions:
    """Registering."""

    def test_status(self, triton: Any, memory: Any, key: str) -> None:
        """What is registered is told, until it is not any more."""
        (region,) = triton.get_system_shared_memory_status().regions.values()
        assert (region.name, region.key, region.offset, region.byte_size) == ("region", key, 0, 48)
        triton.unregister_system_shared_memory("region")
        assert not triton.get_system_shared_memory_status().regions
        assert status(triton.get_system_shared_memory_status, "region")[0] == "NOT_FOUND"
        triton.unregister_system_shared_memory("region")

    def test_offset_is_applied_once(self, triton: Any, memory: Any, key: str) -> None:
        """A region that begins inside the shared memory is read from there, page-aligned or not."""
        for offset in (12, 0):
            triton.register_system_shared_memory(f"from {offset}", key, 24, offset)
            inputs = [tensor(region=f"from {offset}")]
            expected = np.array([[4, 5, 6], [0, 0, 0]]) if offset else X
            np.testing.assert_array_equal(triton.infer("bare", inputs).as_numpy("y"), expected)
        large = f"{key}-large"
        handle = shm.create_shared_memory_region("large", large, 8192 + 24)
        shm.set_shared_memory_region(handle, [X], 4096)
        triton.register_system_shared_memory("page", large, 4096, 4096)
        np.testing.assert_array_equal(triton.infer("bare", [tensor(region="page")]).as_numpy("y"), X)
        shm.destroy_shared_memory_region(handle)

    @pytest.mark.parametrize(
        ("name", "made", "size", "offset", "expected"),
        [
            ("region", True, 48, 0, "ALREADY_EXISTS"),
            ("new", False, 48, 0, "INTERNAL"),
            ("new", True, 0, 0, "INVALID_ARGUMENT"),
            ("new", True, 49, 0, "INVALID_ARGUMENT"),
            ("new", True, 1, 48, "INVALID_ARGUMENT"),
            ("new", True, 2**64 - 1, 2**63, "INVALID_ARGUMENT"),
        ],
    )
    def test_refused(
        self, triton: Any, memory: Any, key: str, name: str, made: bool, size: int, offset: int, expected: str
    ) -> None:
        """Each bad registration has Triton's status."""
        there = key if made else "/zoonnx-test-nothing"
        assert status(triton.register_system_shared_memory, name, there, size, offset)[0] == expected

    @pytest.mark.parametrize("bad", ["../etc/passwd", "/a/b", "", "/..", "."])
    def test_keys_stay_in_their_place(self, triton: Any, bad: str) -> None:
        """A key that would lead elsewhere is refused."""
        assert status(triton.register_system_shared_memory, "new", bad, 1)[0] == "INVALID_ARGUMENT"

    def test_links_are_not_followed(self, triton: Any, key: str, tmp_path: Path) -> None:
        """A link in the place of shared memory leads nowhere."""
        (tmp_path / "secret").write_bytes(bytes(100))
        link = Path("/dev/shm", key.lstrip("/"))
        link.symlink_to(tmp_path / "secret")
        try:
            assert status(triton.register_system_shared_memory, "new", key, 1)[0] == "INTERNAL"
        finally:
            link.unlink()

    def test_files_are_closed(self, memory: Any, key: str) -> None:
        """Regions that are refused or unregistered leave no open file."""
        regions = Regions()
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(InvalidRequestError):
            regions.register("a", key, 0, 49)
        regions.register("b", key, 0, 48)
        regions.unregister("")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_cuda(self, triton: Any) -> None:
        """Without a GPU its memory cannot be registered, which is said clearly; to unregister nothing is no error."""
        if cuda.missing() is None:
            pytest.skip("there is a GPU")
        found, words = status(triton.register_cuda_shared_memory, "new", b"aGFuZGxl", 0, 64)
        assert (found, "because there is no" in words or "because the NVIDIA driver" in words) == (
            "UNIMPLEMENTED",
            True,
        )
        assert not triton.get_cuda_shared_memory_status().regions
        triton.unregister_cuda_shared_memory()


class TestSettings:
    """Logging and tracing."""

    def test_log_settings(self, triton: Any) -> None:
        """Switches are told, changed and told again; a bad one changes nothing."""
        assert triton.get_log_settings().settings["log_info"].bool_param
        changed = triton.update_log_settings({"log_info": False, "log_verbose_level": 2}).settings
        assert (changed["log_info"].bool_param, changed["log_verbose_level"].uint32_param) == (False, 2)
        assert status(triton.update_log_settings, {"log_error": False, "nothing": True})[0] == "INVALID_ARGUMENT"
        assert status(triton.update_log_settings, {"log_file": "/tmp/log"})[0] == "UNIMPLEMENTED"
        assert triton.get_log_settings().settings["log_error"].bool_param
        triton.update_log_settings({"log_info": True, "log_verbose_level": 0})

    def test_tracing_is_off(self, triton: Any) -> None:
        """The server says that it does not trace; asking for it is refused."""
        assert list(triton.get_trace_settings().settings["trace_level"].value) == ["OFF"]
        assert status(triton.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})[0] == "UNIMPLEMENTED"
        assert status(triton.update_trace_settings, settings={"nothing": "1"})[0] == "INVALID_ARGUMENT"
