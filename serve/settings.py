"""Settings of the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from serve.errors import SettingsError

Provider = Literal["auto", "cuda", "cpu"]
GrpcFrontend = Literal["auto", "native", "grpcio"]
ModelControl = Literal["none", "explicit", "poll"]
MIB = 2**20
MAX_BATCH_SIZE = 2**31 - 1  # of the field in config.pbtxt
MAX_MESSAGE_BYTES = 2**31 - 1  # of protobuf and of gRPC


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of one server process.

    Attributes:
        models: Model repository in Triton's layout, or one .onnx file.
        host: Address or host name to listen on.
        grpc_port: Port for gRPC, 0 to 65535; 0 selects an unused port.
        grpc_frontend: The HTTP/2 server for gRPC: `native` is pygrpc-native, which is fast but does not bound messages;
            `auto` selects it where it is installed and only this machine can connect, else `grpcio`.
        http_port: Port for HTTP, 0 to 65535; 0 selects an unused port, None disables HTTP.
        provider: Device that runs the models; `auto` selects CUDA if it works, else the CPU.
        max_message_bytes: Largest gRPC request in bytes, 1 to 2147483647.
        stop_grace_s: Seconds that a stopping server waits for in-flight requests, 0 or more.
        tap_sessions: Size of each model's cache of sessions with layer outputs, 1 or more.
        model_control: When models are loaded. `none`: all models are loaded at startup; `explicit`: `load_models` at
            startup, then as clients request it; `poll`: all models at startup, and again whenever their files change.
        load_models: Names of the models to load at startup; only with `explicit` model control.
        poll_interval_s: Seconds between two scans of the repository with `poll` model control, more than 0.
        max_batch_size: Largest batch of a model whose config.pbtxt does not define batches, 0 or more, if a trial run
            shows that it accepts them; 0 serves such models without batches.
        strict: Whether a model that cannot be loaded keeps the server from starting, also if others can be.
    """

    models: Path
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    grpc_frontend: GrpcFrontend = "auto"
    http_port: int | None = None
    provider: Provider = "auto"
    max_message_bytes: int = 64 * MIB
    stop_grace_s: float = 10.0
    tap_sessions: int = 8
    model_control: ModelControl = "none"
    load_models: tuple[str, ...] = ()
    poll_interval_s: float = 15.0
    max_batch_size: int = 4
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.host:
            raise SettingsError("the host is empty: pass a host name or an address, such as 127.0.0.1.")
        for port in (self.grpc_port, self.http_port or 0):
            if not 0 <= port <= 65535:
                raise SettingsError(f"a port must be from 0 (any unused port) to 65535; got {port}.")
        _require_choice("provider", self.provider, get_args(Provider))
        _require_choice("gRPC frontend", self.grpc_frontend, get_args(GrpcFrontend))
        self._check_limits()
        self._check_model_control()

    def _check_limits(self) -> None:
        if not 1 <= self.max_message_bytes <= MAX_MESSAGE_BYTES:
            raise SettingsError(
                f"the message limit must be from 1 to {MAX_MESSAGE_BYTES} bytes, which is gRPC's own limit "
                f"(--max-message-mib 1 to {MAX_MESSAGE_BYTES // MIB}); got {self.max_message_bytes} bytes."
            )
        if not 0 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise SettingsError(
                f"the largest batch of models without config.pbtxt (--max-batch) must be from 0 to {MAX_BATCH_SIZE}; "
                f"got {self.max_batch_size}."
            )
        if self.tap_sessions < 1:
            raise SettingsError(f"tap_sessions must be 1 or more; got {self.tap_sessions}.")
        if self.stop_grace_s < 0:
            raise SettingsError(f"stop_grace_s must be 0 or more; got {self.stop_grace_s}.")

    def _check_model_control(self) -> None:
        _require_choice("model control", self.model_control, get_args(ModelControl))
        if self.load_models and self.model_control != "explicit":
            raise SettingsError(f"load_models requires explicit model control; got {self.model_control}.")
        if self.model_control != "none" and self.models.is_file():
            raise SettingsError(
                f"{self.models} is one file, but {self.model_control} model control needs a model repository."
            )
        if not self.poll_interval_s > 0:
            raise SettingsError(f"poll_interval_s must be more than 0; got {self.poll_interval_s}.")


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SettingsError(f"the {name} must be one of {', '.join(choices)}; got '{value}'.")
