"""Tests of the adjustable log levels."""

import io
import logging
from collections.abc import Iterator

import pytest

from serve.errors import InvalidRequestError
from serve.frontends.grpc.log_settings import LogFilter


@pytest.fixture
def log_output() -> Iterator[io.StringIO]:
    """The output of a handler on the root logger."""
    text, level = io.StringIO(), logging.getLogger("serve").level
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    yield text
    logging.getLogger().removeHandler(handler)
    logging.getLogger("serve").setLevel(level)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "info warning error other"),
        ({"log_info": False}, "warning error other"),
        ({"log_warning": False, "log_error": False}, "info other"),
        ({"log_verbose_level": 1}, "debug info warning error other"),
    ],
)
def test_switches(log_output: io.StringIO, changes: dict[str, bool | int | str | None], expected: str) -> None:
    """Each switch disables one level of this package's records, and no others."""
    log_filter = LogFilter()
    log_filter.change(changes)
    log = logging.getLogger("serve.somewhere")
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)(level)
    logging.getLogger("elsewhere").error("other")
    assert log_output.getvalue().split() == expected.split()
    for handler in logging.getLogger().handlers:
        handler.removeFilter(log_filter)


@pytest.mark.parametrize("changes", [{"log_info": "yes"}, {"log_verbose_level": True}, {"log_file": 1}])
def test_types(changes: dict[str, bool | int | str | None]) -> None:
    """A value of another type is rejected."""
    log_filter = LogFilter()
    with pytest.raises(InvalidRequestError, match="is a"):
        log_filter.change(changes)


def test_none_is_the_default() -> None:
    """A setting without a value is reset to its default."""
    log_filter = LogFilter()
    log_filter.change({"log_info": False})
    log_filter.change({"log_info": None})
    assert log_filter.settings()["log_info"] is True
    for handler in logging.getLogger().handlers:
        handler.removeFilter(log_filter)
