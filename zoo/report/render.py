"""Rendering of templates. Names of classes and files come from the user's data and are escaped."""

import re
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

NOT_AVAILABLE = "\N{EN DASH}"
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$])")


def render(template: str, **values: object) -> bytes:
    """Render a template of this package; bytes of a file name that are not Unicode become question marks."""
    return _environment().get_template(template).render(**values).encode("utf-8", "replace")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a number from 0 to 1 as a percentage, or a dash for None."""
    return NOT_AVAILABLE if value is None else f"{value:.{digits}%}".replace("%", "\N{NO-BREAK SPACE}%")


def escape_markdown(text: object) -> str:
    """Return `text` on one line, with every character escaped that Markdown would interpret."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Return the first `limit` names, and the number of the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("zoo.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "md": escape_markdown, "listed": listed, "zip": zip}
    return environment
