"""The RPCs about the running server's settings."""

from collections.abc import Mapping
from typing import Any

from protos import inference
from serve.errors import InvalidRequestError, UnsupportedError
from serve.frontends.grpc.inference import Handler
from serve.frontends.grpc.log_settings import LogSettings, Setting

PARAMETER = {bool: "bool_param", int: "uint32_param", str: "string_param"}
NO_TRACING: Mapping[str, tuple[str, ...]] = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}


class SettingsService:
    """Logging, and tracing, which is always off."""

    def __init__(self, log_settings: LogSettings) -> None:
        self._log = log_settings

    def handlers(self) -> dict[str, Handler]:
        """Both RPCs."""
        return {"LogSettings": self._log_settings, "TraceSetting": self._trace_setting}

    async def _log_settings(self, request: inference.LogSettingsRequest) -> inference.LogSettingsResponse:
        self._log.change({name: _value(value) for name, value in request.settings.items()})
        answer = inference.LogSettingsResponse()
        for name, value in self._log.settings().items():
            setattr(answer.settings[name], PARAMETER[type(value)], value)
        return answer

    async def _trace_setting(self, request: inference.TraceSettingRequest) -> inference.TraceSettingResponse:
        for name, wanted in request.settings.items():
            if name not in NO_TRACING:
                raise InvalidRequestError(f"there is no trace setting '{name}'; there are {', '.join(NO_TRACING)}.")
            if wanted.value and tuple(wanted.value) != NO_TRACING[name]:
                raise UnsupportedError(f"this server does not trace: '{name}' stays {', '.join(NO_TRACING[name])}.")
        answer = inference.TraceSettingResponse()
        for name, values in NO_TRACING.items():
            answer.settings[name].value.extend(values)
        return answer


def _value(setting: Any) -> Setting | None:
    kind = setting.WhichOneof("parameter_choice")
    return getattr(setting, kind) if kind else None
