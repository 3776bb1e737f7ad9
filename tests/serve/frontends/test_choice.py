"""Tests of the choice between the two gRPC frontends."""

import importlib.util
import logging
from pathlib import Path

import pytest

from serve.errors import SettingsError
from serve.frontends.choice import choose_frontend
from serve.settings import GrpcFrontend, ServerSettings


@pytest.fixture
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether pygrpc-native can be found, by parametrisation."""
    spec = importlib.util.find_spec("serve") if request.param else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)


@pytest.mark.parametrize(
    ("installed", "asked", "host", "expected"),
    [
        (True, "auto", "127.0.0.1", "native"),
        (True, "auto", "127.8.9.1", "native"),
        (True, "auto", "::1", "native"),
        (True, "auto", "localhost", "native"),
        (True, "auto", "0.0.0.0", "grpcio"),
        (True, "auto", "example.org", "grpcio"),
        (True, "grpcio", "127.0.0.1", "grpcio"),
        (True, "native", "0.0.0.0", "native"),
        (False, "auto", "127.0.0.1", "grpcio"),
    ],
    indirect=["installed"],
)
@pytest.mark.usefixtures("installed")
def test_choice(
    asked: GrpcFrontend, host: str, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` is native only where it is installed and no other machine can connect; native elsewhere is warned of."""
    with caplog.at_level(logging.WARNING):
        assert choose_frontend(ServerSettings(models=tmp_path, grpc_frontend=asked, host=host)) == expected
    is_exposed = (expected, host) == ("native", "0.0.0.0")
    assert [record.getMessage() for record in caplog.records] == (
        ["the native gRPC frontend does not bound messages: put it behind a proxy that does"] if is_exposed else []
    )


@pytest.mark.parametrize("installed", [False], indirect=True)
@pytest.mark.usefixtures("installed")
def test_not_installed(tmp_path: Path) -> None:
    """Asking for native where it is not installed is an error with the command that installs it."""
    with pytest.raises(SettingsError, match=r"pip install 'zoonnx\[native\]'"):
        choose_frontend(ServerSettings(models=tmp_path, grpc_frontend="native"))
