"""The server's settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from serve.errors import SettingsError

Provider = Literal["auto", "cuda", "cpu"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server serves, and where.

    `models` is a model repository or one .onnx file. A `grpc_port` of 0 takes a free one. `provider` auto means CUDA
    where it works, else the CPU. `stop_grace_s` is how long a stopping server waits for the requests it has begun.
    `tap_sessions` is how many sets of layers each model keeps ready beside its plain outputs.
    """

    models: Path
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    provider: Provider = "auto"
    max_message_bytes: int = 64 * 2**20
    stop_grace_s: float = 10.0
    tap_sessions: int = 8

    def __post_init__(self) -> None:
        if not self.host:
            raise SettingsError("the host is empty: give a name or an address, such as 127.0.0.1.")
        if not 0 <= self.grpc_port <= 65535:
            raise SettingsError(f"a port is between 0 (any free one) and 65535; got {self.grpc_port}.")
        if self.provider not in get_args(Provider):
            raise SettingsError(f"the provider is one of {', '.join(get_args(Provider))}; got '{self.provider}'.")
        if self.max_message_bytes < 1:
            raise SettingsError(f"max_message_bytes must be 1 or more; got {self.max_message_bytes}.")
        if self.tap_sessions < 1:
            raise SettingsError(f"tap_sessions must be 1 or more; got {self.tap_sessions}.")
        if self.stop_grace_s < 0:
            raise SettingsError(f"stop_grace_s must be 0 or more; got {self.stop_grace_s}.")
