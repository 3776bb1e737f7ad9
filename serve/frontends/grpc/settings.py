"""RPCs for the settings of the running server: logging and tracing."""

from collections.abc import Mapping
from typing import Any

from protos import inference
from serve.errors import InvalidRequestError, UnsupportedError
from serve.frontends.grpc.inference import Handler
from serve.frontends.grpc.log_settings import LogFilter, Setting

PARAMETER = {bool: "bool_param", int: "uint32_param", str: "string_param"}
TRACE_SETTINGS: Mapping[str, tuple[str, ...]] = {  # fixed: this server does not support tracing
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}


class SettingsService:
    """Adjustable log settings, and trace settings, which are fixed: tracing is always off."""

    def __init__(self, log_filter: LogFilter) -> None:
        self._log_filter = log_filter

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by RPC name."""
        return {"LogSettings": self._log_settings, "TraceSetting": self._trace_setting}

    async def _log_settings(self, request: inference.LogSettingsRequest) -> inference.LogSettingsResponse:
        self._log_filter.change({name: _value(setting) for name, setting in request.settings.items()})
        response = inference.LogSettingsResponse()
        for name, value in self._log_filter.settings().items():
            setattr(response.settings[name], PARAMETER[type(value)], value)
        return response

    async def _trace_setting(self, request: inference.TraceSettingRequest) -> inference.TraceSettingResponse:
        for name, setting in request.settings.items():
            if name not in TRACE_SETTINGS:
                raise InvalidRequestError(
                    f"there is no trace setting '{name}'; the settings are {', '.join(TRACE_SETTINGS)}."
                )
            if setting.value and tuple(setting.value) != TRACE_SETTINGS[name]:
                fixed = ", ".join(TRACE_SETTINGS[name])
                raise UnsupportedError(f"this server does not support tracing: '{name}' is always {fixed}.")
        response = inference.TraceSettingResponse()
        for name, values in TRACE_SETTINGS.items():
            response.settings[name].value.extend(values)
        return response


def _value(setting: Any) -> Setting | None:
    kind = setting.WhichOneof("parameter_choice")
    return getattr(setting, kind) if kind else None
