"""A server in a separate process, started from Python."""

import os
from pathlib import Path

import pytest

from serve.client import Client
from serve.errors import SetupError
from serve.process import serve


def test_a_server_runs_within_its_block(models: Path) -> None:
    """The server is ready when `serve` returns, and unreachable after the block."""
    with serve(models) as server, Client(server.url, retries=0) as client:
        assert client.ready()
        process = server._process
        assert "stopped" not in server.log
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_closing_twice_is_harmless(models: Path) -> None:
    """The second close does nothing."""
    server = serve(models)
    server.close()
    server.close()
    assert server._process.returncode == 0


def test_the_servers_own_message_is_raised(tmp_path: Path) -> None:
    """The error of a server that cannot start has the server's own message."""
    with pytest.raises(SetupError, match=r"did not start: .*nothing"):
        serve(tmp_path / "nothing")


def test_a_server_that_is_not_ready_in_time_is_stopped(models: Path) -> None:
    """A server that is not ready in time is stopped, and the error names the time limit."""
    with pytest.raises(SetupError, match=r"not ready within 0\.01 s"):
        serve(models, start_timeout_s=0.01)
