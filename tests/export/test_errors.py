"""Exceptions of other packages and of user code, which become ExportErrors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.errors import (
    ExhaustedMemoryError,
    ExportError,
    ParityError,
    SourceError,
    UnexpectedError,
    foreign_errors,
)
from export.source.module import plain_preprocessing
from zoo import ZooError


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (KeyError("k"), UnexpectedError, r"failed unexpectedly while testing: KeyError: 'k' \(test_errors.py:\d+\)"),
        (SystemExit(0), UnexpectedError, "SystemExit: 0"),
        (RecursionError("too\ndeep"), UnexpectedError, "RecursionError: too deep"),
        (MemoryError(), ExhaustedMemoryError, "out of memory: an allocation failed, while testing"),
        (ZooError("no such network"), SourceError, "^no such network$"),
        (ParityError("differs"), ParityError, "^differs$"),
    ],
)
def test_translation(raised: BaseException, expected: type[ExportError], message: str) -> None:
    """A foreign exception becomes an ExportError that names the step, with the original as its cause."""
    with pytest.raises(expected, match=message) as caught, foreign_errors(lambda: "testing"):
        raise raised
    assert raised in (caught.value, caught.value.__cause__)


def test_interrupts_pass() -> None:
    """Ctrl-C is no failure of the export."""
    with pytest.raises(KeyboardInterrupt), foreign_errors(lambda: "testing"):
        raise KeyboardInterrupt


class Hostile(nn.Module):
    """A network that fails where no forward is called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def named_modules(self, *_args: Any, **_options: Any) -> Iterator[Any]:
        raise ValueError("no modules today")


def test_every_failure_is_an_export_error(tmp_path: Path) -> None:
    """A failure outside of the network's forward names the step; nothing is written."""
    settings = ExportSettings(to=tmp_path / "models", name="n")
    with pytest.raises(UnexpectedError, match="while loading the network: ValueError: no modules today"):
        export_model(Hostile().eval(), settings, preprocessing=plain_preprocessing((3, 8, 8)))
    assert not (tmp_path / "models").exists()


def test_memory_of_a_forward(tmp_path: Path) -> None:
    """A forward that exceeds the memory is not called unsupported."""

    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise MemoryError("unable to allocate 9 TiB")

    settings = ExportSettings(to=tmp_path / "models", name="n")
    with pytest.raises(ExhaustedMemoryError, match="out of memory: unable to allocate 9 TiB, while running PyTorch"):
        export_model(Large().eval(), settings, preprocessing=plain_preprocessing((3, 8, 8)))
