"""Stress tests of a public server: floods of requests, garbage, clients that are killed; nothing may leak."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from protos import inference
from serve.client.sync import METHODS
from tests.conftest import ROOT
from tests.serve.conftest import Serve

Infer = inference.ModelInferRequest
Tensor, Contents = Infer.InferInputTensor, inference.InferTensorContents
CONNECTIONS, REQUESTS = 5, 6000
STREAMER = """
import itertools, sys, grpc
stream = grpc.insecure_channel(sys.argv[1]).stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
for number, _ in enumerate(stream(itertools.repeat(bytes.fromhex(sys.argv[2])))):
    if number == 20:
        print("streaming", flush=True)
"""


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server's process and its address."""
    with serve(models, "--grpc-port", 0, "--provider", "cpu") as process:
        yield process, process.stdout.readline().split()[-1]  # type: ignore[union-attr]


def bare() -> bytes:
    """Return a valid request for a small model."""
    tensor = Tensor(name="x", datatype="FP32", shape=[1, 3], contents=Contents(fp32_contents=[1, 2, 3]))
    return Infer(model_name="bare", inputs=[tensor]).SerializeToString()


def open_files(process: "subprocess.Popen[str]") -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def resident_mib(process: "subprocess.Popen[str]") -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


def test_a_long_list_does_not_block_others(server: tuple["subprocess.Popen[str]", str]) -> None:
    """Other requests are served while four million typed elements are converted."""
    values = [0.0] * 2**22
    tensor = Tensor(name="x", datatype="FP32", shape=[2**21, 2], contents=Contents(fp32_contents=values))
    data = Infer(model_name="bare", inputs=[tensor]).SerializeToString()
    with grpc.insecure_channel(server[1]) as channel:
        live, infer = (channel.unary_unary(METHODS[name].path) for name in ("ServerLive", "ModelInfer"))
        start_s = time.perf_counter()
        future = infer.future(data)
        waits_s = []
        while not future.done():
            sent_s = time.perf_counter()
            live(b"")
            waits_s.append(time.perf_counter() - sent_s)
        took_s = time.perf_counter() - start_s
    assert future.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert max(waits_s) < took_s / 2


@pytest.mark.anyio
async def test_thousands_at_once(server: tuple["subprocess.Popen[str]", str]) -> None:
    """All requests of a flood succeed; gRPC's default limit would drop most of them as CANCELLED."""
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(server[1], options=own_connection) for _ in range(CONNECTIONS)]
    calls = [channel.unary_unary(METHODS["ServerLive"].path) for channel in channels]
    codes = await asyncio.gather(*(_code(calls[i % CONNECTIONS](b"", timeout=60)) for i in range(REQUESTS)))
    for channel in channels:
        await channel.close()
    assert Counter(codes) == {grpc.StatusCode.OK: REQUESTS}


async def _code(call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> grpc.StatusCode:
    return await call.code()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_clients_that_are_killed(server: tuple["subprocess.Popen[str]", str]) -> None:
    """Streams whose clients are killed leave no open files and no requests behind."""
    process, url = server
    before = open_files(process)
    command = [sys.executable, "-c", STREAMER, url, bare().hex()]
    clients = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for client in clients:
        assert client.stdout
        assert client.stdout.readline() == "streaming\n"
        client.send_signal(signal.SIGKILL)
        client.communicate()
    deadline_s = time.monotonic() + 10
    while open_files(process) > before and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert open_files(process) <= before
    with grpc.insecure_channel(url) as channel:
        assert channel.unary_unary(METHODS["ModelInfer"].path)(bare(), timeout=20)


def random_request(random_: random.Random) -> bytes:
    """Return a request of randomly chosen invalid parts."""
    sizes = [0, 1, 2, 3, -1, 2**31, 2**62, 2**63 - 1, -(2**63)]
    names = ["bare", "arithmetic", "labelled", "text", "unbatched", "", "../bare", "nothing"]
    message = Infer(model_name=random_.choice(names), model_version=random_.choice(["", "", "1", "-1", "9" * 30, "x"]))
    for name in random_.sample(["a", "b", "x", "image", ""], random_.randint(0, 3)):
        shape = [random_.choice(sizes) for _ in range(random_.choice([0, 1, 2, 2, 4, 40]))]
        tensor = message.inputs.add(name=name, datatype=random_.choice(["FP32", "BYTES", "INT64", "fp32"]), shape=shape)
        filled = [Contents(fp32_contents=[float("nan")] * 3), Contents(bytes_contents=[b"\xff", b"NaN"]), Contents()]
        tensor.contents.CopyFrom(random_.choice(filled))
        if random_.random() < 0.1:
            tensor.parameters["shared_memory_region"].string_param = "../../etc/passwd"
    message.raw_input_contents.extend(
        random_.randbytes(random_.choice([0, 4, 12])) for _ in range(random_.randint(0, 2))
    )
    for name in random_.sample(["y", "sum", "nope", "Ω" * 200], random_.randint(0, 2)):
        message.outputs.add(name=name).parameters["classification"].int64_param = random_.choice([-1, 0, 1, 2**62])
    message.parameters["timeout"].int64_param = random_.choice([0, 1, -5, 2**63 - 1])
    return message.SerializeToString()


def outcome(call: "grpc.UnaryUnaryMultiCallable[bytes, bytes]", data: bytes) -> tuple[grpc.StatusCode, str]:
    """Return status and details of a request."""
    try:
        call(data, timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""  # type: ignore[attr-defined]
    return grpc.StatusCode.OK, ""


def test_random_requests(server: tuple["subprocess.Popen[str]", str]) -> None:
    """Each has a status of the table and details without a path; the server neither fails nor grows."""
    process, url = server
    random_ = random.Random(7)
    allowed = {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INTERNAL,
    }
    with grpc.insecure_channel(url) as channel:
        call = channel.unary_unary(METHODS["ModelInfer"].path)
        before = resident_mib(process)
        for _ in range(1500):
            data = bytearray(random_request(random_))
            if random_.random() < 0.3:
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
            code, details = outcome(call, bytes(data))
            assert code in allowed, (details, data.hex())
            assert not any(text in details for text in ("/tmp", "/serve", ".onnx", "Traceback", "server's log")), (
                details
            )
    assert process.poll() is None
    assert resident_mib(process) < before + 50
