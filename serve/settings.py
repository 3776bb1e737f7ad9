"""The server's settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from serve.errors import SettingsError

Provider = Literal["auto", "cuda", "cpu"]
ModelControl = Literal["none", "explicit", "poll"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server serves, and where.

    `models` is a model repository or one .onnx file. A port of 0 takes a free one; without an
    `http_port` there is no HTTP. `provider` auto means CUDA
    where it works, else the CPU. `stop_grace_s` is how long a stopping server waits for the requests it has begun.
    `model_control` says who loads models: `none`, all of them at the start; `explicit`, clients, and at the start only
    `load_models`; `poll`, all of them, and again whenever their files change, looked at every `poll_interval_s`.
    `tap_sessions` is how many sets of layers each model keeps ready beside its plain outputs.
    """

    models: Path
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int | None = None
    provider: Provider = "auto"
    max_message_bytes: int = 64 * 2**20
    stop_grace_s: float = 10.0
    tap_sessions: int = 8
    model_control: ModelControl = "none"
    load_models: tuple[str, ...] = ()
    poll_interval_s: float = 15.0

    def __post_init__(self) -> None:
        if not self.host:
            raise SettingsError("the host is empty: give a name or an address, such as 127.0.0.1.")
        for port in (self.grpc_port, self.http_port or 0):
            if not 0 <= port <= 65535:
                raise SettingsError(f"a port is between 0 (any free one) and 65535; got {port}.")
        if self.provider not in get_args(Provider):
            raise SettingsError(f"the provider is one of {', '.join(get_args(Provider))}; got '{self.provider}'.")
        if self.max_message_bytes < 1:
            raise SettingsError(f"max_message_bytes must be 1 or more; got {self.max_message_bytes}.")
        if self.tap_sessions < 1:
            raise SettingsError(f"tap_sessions must be 1 or more; got {self.tap_sessions}.")
        if self.stop_grace_s < 0:
            raise SettingsError(f"stop_grace_s must be 0 or more; got {self.stop_grace_s}.")
        self._check_control()

    def _check_control(self) -> None:
        if self.model_control not in get_args(ModelControl):
            known = ", ".join(get_args(ModelControl))
            raise SettingsError(f"the model control is one of {known}; got '{self.model_control}'.")
        if self.load_models and self.model_control != "explicit":
            raise SettingsError(f"models are named only for explicit model control; it is {self.model_control}.")
        if self.model_control != "none" and self.models.is_file():
            raise SettingsError(f"{self.models} is one file: for {self.model_control} model control give a repository.")
        if not self.poll_interval_s > 0:
            raise SettingsError(f"poll_interval_s must be more than 0; got {self.poll_interval_s}.")
