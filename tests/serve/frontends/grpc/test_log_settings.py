"""The log shows what its settings say."""

import io
import logging
from collections.abc import Iterator

import pytest

from serve.errors import InvalidRequestError
from serve.frontends.grpc.log_settings import LogSettings


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """What a handler on the root logger writes."""
    text, level = io.StringIO(), logging.getLogger("serve").level
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    yield text
    logging.getLogger().removeHandler(handler)
    logging.getLogger("serve").setLevel(level)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "info warning error other"),
        ({"log_info": False}, "warning error other"),
        ({"log_warning": False, "log_error": False}, "info other"),
        ({"log_verbose_level": 1}, "debug info warning error other"),
    ],
)
def test_switches(shown: io.StringIO, wanted: dict[str, bool | int | str | None], expected: str) -> None:
    """Each switch hides its own level of this package's records, and no others."""
    settings = LogSettings()
    settings.change(wanted)
    log = logging.getLogger("serve.somewhere")
    for word in ("debug", "info", "warning", "error"):
        getattr(log, word)(word)
    logging.getLogger("elsewhere").error("other")
    assert shown.getvalue().split() == expected.split()
    for handler in logging.getLogger().handlers:
        handler.removeFilter(settings)


@pytest.mark.parametrize("wanted", [{"log_info": "yes"}, {"log_verbose_level": True}, {"log_file": 1}])
def test_types(wanted: dict[str, bool | int | str | None]) -> None:
    """A setting of another type is refused."""
    settings = LogSettings()
    with pytest.raises(InvalidRequestError, match="is a"):
        settings.change(wanted)


def test_none_is_the_default() -> None:
    """A setting that is given without a value goes back."""
    settings = LogSettings()
    settings.change({"log_info": False})
    settings.change({"log_info": None})
    assert settings.settings()["log_info"] is True
    for handler in logging.getLogger().handlers:
        handler.removeFilter(settings)
