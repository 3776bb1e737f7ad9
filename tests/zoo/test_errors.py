"""The errors and the surface of zoo."""

from typing import Final

import pytest

import zoo
from zoo import errors

CLASSES: Final = [named for named in vars(errors).values() if isinstance(named, type)]
OURS: Final = [error for error in CLASSES if issubclass(error, errors.ZooError)]


def test_only_failed_work_is_status_1():
    """Every other error is the user's to mend."""
    assert [error.__name__ for error in OURS if error.exit_status == 1] == ["TrainingError"]


def test_the_docstring_draws_the_whole_tree():
    """No class is missing from the image."""
    below = [error.__name__ for error in OURS if error is not errors.ZooError]
    assert len(below) > 5
    assert [name for name in below if f"── {name} " not in errors.__doc__] == []


def test_a_name_without_likeness_gets_no_hint():
    """Nothing close, nothing said."""
    assert errors.did_you_mean("qqqq", ["convnet4"]) == ""


@pytest.mark.parametrize("name", zoo.__all__)
def test_public_names_are_there(name):
    """All of __all__ can be imported."""
    assert getattr(zoo, name).__name__ == name if name != "CATALOG" else "convnet4" in zoo.CATALOG


def test_other_names_are_not():
    """A misspelt name is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'create_modle'"):
        zoo.create_modle  # noqa: B018
