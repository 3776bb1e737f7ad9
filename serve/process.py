"""Runs a server in a separate process, for scripts, notebooks and tests."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from serve.errors import SetupError
from serve.settings import Provider

ROOT = Path(__file__).resolve().parents[1]
READY = re.compile(r"ready: .* on grpc (\S+)")
STOP_TIMEOUT_S = 15.0


class Server:
    """A running server; `url` is the HOST:PORT of its gRPC interface. `close`, or leaving a `with` block, stops it."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, log: IO[str]) -> None:
        self.url = url
        self._process, self._log = process, log
        self._stop = weakref.finalize(self, _stop, process, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log(self) -> str:
        """The server's log so far."""
        return _read(self._log)

    def close(self) -> None:
        """Stop the server after the requests in flight; safe to call twice."""
        self._stop()


def serve(
    models: Path | str,
    *,
    host: str = "127.0.0.1",
    grpc_port: int = 0,
    provider: Provider = "auto",
    start_timeout_s: float = 60.0,
) -> Server:
    """Start a server for a model repository or one .onnx file, and return it when it is ready.

    A `grpc_port` of 0 selects an unused port. The `provider` auto is CUDA if it works, else the CPU.

    Raises:
        SetupError: The server did not start; the message is the server's own.
    """
    options = ["--host", host, "--grpc-port", str(grpc_port), "--provider", provider]
    return _start([str(models), *options], start_timeout_s)


def _start(arguments: Sequence[str], timeout_s: float) -> Server:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    log = tempfile.TemporaryFile("a+", encoding="utf-8")  # noqa: SIM115 - closed with the server; both processes append
    process = subprocess.Popen(
        [sys.executable, "-m", "zoonnx", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    ready = READY.match(_first_line(process, timeout_s))
    if ready is None:
        text = _read(log).strip()
        _stop(process, log)
        reason = text.rpartition("zoonnx serve: ")[2] or f"it was not ready within {timeout_s:g} s"
        raise SetupError(f"the server did not start: {reason}")
    return Server(process, ready[1], log)


def _first_line(process: "subprocess.Popen[str]", timeout_s: float) -> str:
    """Return the first line that the process prints; empty if it ends or prints none in time."""
    lines: list[str] = []

    def read() -> None:
        if process.stdout:
            lines.append(process.stdout.readline())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout_s)
    if reader.is_alive():
        process.kill()
        reader.join()
    return "".join(lines)


def _read(log: IO[str]) -> str:
    log.flush()
    log.seek(0)
    return log.read()


def _stop(process: "subprocess.Popen[str]", log: IO[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
    log.close()
