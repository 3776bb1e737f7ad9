"""Log levels of the server, adjustable while it runs, under the names of Triton's logging extension."""

import logging
from dataclasses import dataclass, replace

from serve.errors import InvalidRequestError, UnsupportedError

PACKAGE_LOGGER = "serve"
SWITCHES = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
Setting = bool | int | str


@dataclass(frozen=True)
class LogLevels:
    """The levels of the records that are logged.

    Attributes:
        enabled: The enabled levels among INFO, WARNING and ERROR; ERROR includes all higher levels.
        verbose_level: 1 or more also logs the levels below INFO.
    """

    enabled: frozenset[int] = frozenset(SWITCHES.values())
    verbose_level: int = 0


class LogFilter(logging.Filter):
    """Filters this package's records by adjustable levels. The log goes to stderr, in a fixed format."""

    def __init__(self) -> None:
        super().__init__()
        self._levels = LogLevels()
        for handler in logging.getLogger().handlers:
            handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged; those of other packages always are."""
        if record.name.partition(".")[0] != PACKAGE_LOGGER:
            return True
        if record.levelno < logging.INFO:
            return self._levels.verbose_level > 0
        return min(record.levelno, logging.ERROR) in self._levels.enabled

    def settings(self) -> dict[str, Setting]:
        """Return all settings by Triton's names."""
        switches = {name: level in self._levels.enabled for name, level in SWITCHES.items()}
        return {"log_file": "", **switches, "log_verbose_level": self._levels.verbose_level, "log_format": "default"}

    def change(self, changes: dict[str, Setting | None]) -> None:
        """Apply all changes, or none if one is invalid; a value of None restores the default.

        Raises:
            InvalidRequestError: There is no such setting, or its value has another type.
            UnsupportedError: The setting cannot be changed.
        """
        levels = self._levels
        for name, value in changes.items():
            levels = self._apply(levels, name, value)
        self._levels = levels
        logging.getLogger(PACKAGE_LOGGER).setLevel(logging.DEBUG if levels.verbose_level else logging.INFO)

    def _apply(self, levels: LogLevels, name: str, value: Setting | None) -> LogLevels:
        current = self.settings()
        if name not in current:
            raise InvalidRequestError(f"there is no log setting '{name}'; the settings are {', '.join(current)}.")
        if value is not None and type(value) is not type(current[name]):
            raise InvalidRequestError(f"log setting '{name}' is a {type(current[name]).__name__}; got {value!r}.")
        if name in SWITCHES:
            level = {SWITCHES[name]}
            return replace(levels, enabled=levels.enabled - level if value is False else levels.enabled | level)
        if name == "log_verbose_level":
            return replace(levels, verbose_level=int(value or 0))
        if value not in (None, current[name]):
            raise UnsupportedError(f"log setting '{name}' cannot be changed; it is always '{current[name]}'.")
        return levels
