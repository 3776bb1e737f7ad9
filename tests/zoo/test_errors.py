"""zoo's exceptions and public names."""

from typing import Final

import pytest

import zoo
from zoo import errors

CLASSES: Final = [value for value in vars(errors).values() if isinstance(value, type)]
ERRORS: Final = [error for error in CLASSES if issubclass(error, errors.ZooError)]


def test_only_failed_work_is_status_1():
    """TrainingError is the only error with exit status 1."""
    assert [error.__name__ for error in ERRORS if error.exit_status == 1] == ["TrainingError"]


def test_the_docstring_shows_every_class():
    """Every subclass of ZooError is in the module's docstring."""
    names = [error.__name__ for error in ERRORS if error is not errors.ZooError]
    assert len(names) > 5
    assert [name for name in names if f"── {name}\n" not in errors.__doc__] == []


def test_a_name_without_similar_names_gets_no_hint():
    """A name that resembles no known name gets an empty hint."""
    assert errors.did_you_mean("qqqq", ["convnet4"]) == ""


@pytest.mark.parametrize("name", zoo.__all__)
def test_public_names_are_importable(name):
    """Each name in __all__ is an attribute of the package."""
    assert getattr(zoo, name).__name__ == name if name != "CATALOG" else "convnet4" in zoo.CATALOG


def test_unknown_names_raise():
    """A misspelt name is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'create_modle'"):
        zoo.create_modle  # noqa: B018
