"""The steps of an export."""

import inspect
import re
from dataclasses import fields

import pytest

from export import pipeline
from export.steps import stages

STEPS = [
    function
    for name, function in vars(pipeline).items()
    if inspect.isfunction(function) and function.__module__ == f"export.steps.{name}"
]


def test_all_steps_are_in_the_pipeline() -> None:
    """The pipeline imports one function of each step's file."""
    assert len(STEPS) == 11


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_docstring(step: object) -> None:
    """The docstring of a step states what it adds or replaces, what it ensures, and what it raises."""
    text = inspect.getdoc(step) or ""
    assert all(
        re.search(pattern, text, re.MULTILINE)
        for pattern in (r"^(Adds|Reads and replaces): ", r"^Ensures: ", r"^Raises: ")
    )


def test_stages_keep_all_results() -> None:
    """The last stage has the results of all stages, each under one name."""
    classes = [
        stage for stage in vars(stages).values() if inspect.isclass(stage) and stage.__module__ == stages.__name__
    ]
    names = {field.name for stage in classes for field in fields(stage)}
    assert {field.name for field in fields(stages.Written)} == names
