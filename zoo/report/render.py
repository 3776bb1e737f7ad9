"""Templates to text. Whatever comes from outside is escaped: names of classes and files are not ours."""

import re
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

NOTHING = "\N{EN DASH}"
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$])")


def render(template: str, **values: object) -> bytes:
    """Fill in a template of this package; what is no Unicode, as in some files' names, becomes a question mark."""
    return _environment().get_template(template).render(**values).encode("utf-8", "replace")


def share(value: float | None, digits: int = 1) -> str:
    """A number from 0 to 1 as a percentage."""
    return NOTHING if value is None else f"{value:.{digits}%}".replace("%", "\N{NO-BREAK SPACE}%")


def plain_markdown(text: object) -> str:
    """Text whose every character stands for itself in Markdown, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
    environment.filters |= {"share": share, "md": plain_markdown, "listed": listed, "zip": zip}
    return environment
