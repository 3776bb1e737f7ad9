"""What the server's log holds, changed while it runs."""

import logging
from dataclasses import dataclass, replace

from serve.errors import InvalidRequestError, UnsupportedError

ROOT = "serve"
SWITCHES = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
Setting = bool | int | str


@dataclass(frozen=True)
class Shown:
    """Which levels are shown; a `verbose_level` of 1 or more shows everything else too."""

    levels: frozenset[int] = frozenset(SWITCHES.values())
    verbose_level: int = 0


class LogSettings(logging.Filter):
    """Filters what this package logs. Triton's names; the log goes to stderr, and its format is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = Shown()
        for handler in logging.getLogger().handlers:
            handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; other packages' always are."""
        if record.name.partition(".")[0] != ROOT:
            return True
        if record.levelno < logging.INFO:
            return self._shown.verbose_level > 0
        return min(record.levelno, logging.ERROR) in self._shown.levels

    def settings(self) -> dict[str, Setting]:
        """All settings, by Triton's names."""
        switches = {name: level in self._shown.levels for name, level in SWITCHES.items()}
        return {"log_file": "", **switches, "log_verbose_level": self._shown.verbose_level, "log_format": "default"}

    def change(self, wanted: dict[str, Setting | None]) -> None:
        """Change some settings, all or none; a value of None is the default.

        Raises:
            InvalidRequestError: there is no such setting, or it is of another type.
            UnsupportedError: it cannot be changed.
        """
        shown = self._shown
        for name, value in wanted.items():
            shown = self._changed(shown, name, value)
        self._shown = shown
        logging.getLogger(ROOT).setLevel(logging.DEBUG if shown.verbose_level else logging.INFO)

    def _changed(self, shown: Shown, name: str, value: Setting | None) -> Shown:
        present = self.settings()
        if name not in present:
            raise InvalidRequestError(f"there is no log setting '{name}'; there are {', '.join(present)}.")
        if value is not None and type(value) is not type(present[name]):
            raise InvalidRequestError(f"log setting '{name}' is a {type(present[name]).__name__}; got {value!r}.")
        if name in SWITCHES:
            level = {SWITCHES[name]}
            return replace(shown, levels=shown.levels - level if value is False else shown.levels | level)
        if name == "log_verbose_level":
            return replace(shown, verbose_level=int(value or 0))
        if value not in (None, present[name]):
            raise UnsupportedError(f"log setting '{name}' cannot be changed here; it is '{present[name]}'.")
        return shown
