"""Evaluated runs to write reports about, and a reader of HTML."""

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.splits import MemorySplit
from zoo.evaluation.evaluate import Evaluation, evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.report import EvaluatedRun, evaluated_run_of
from zoo.runs.checkpoint import read_checkpoint, read_settings
from zoo.runs.load import load_network


@pytest.fixture(scope="session")
def evaluated_run(short_run, digits) -> EvaluatedRun:
    """Return a short run on digits, evaluated on the test split."""
    network = load_network(short_run).network
    return evaluated_run_of(short_run, network, digits, "test", evaluate(network, digits.test, digits.preprocessing))


@pytest.fixture
def make_evaluated_run(short_run) -> Callable[..., EvaluatedRun]:
    """Return a function that makes an evaluated run with any logits and targets."""

    def make(
        logits: Tensor,
        targets: Tensor,
        labels: tuple[str, ...],
        images: Tensor | None = None,
        temperature: float | None = None,
    ) -> EvaluatedRun:
        images = images if images is not None else torch.zeros(len(targets), 4, 4, 1, dtype=torch.uint8)
        split = MemorySplit(images, targets)
        size = (images.shape[3], images.shape[1], images.shape[2])
        preprocessing = Preprocessing(input_size=size, mean=(0.5,) * size[0], std=(0.5,) * size[0])
        data = Dataset("made up", labels, preprocessing, split, split, split)
        checkpoint = read_checkpoint(short_run / "best")
        metrics = {name: value for name, value in checkpoint.metrics.items() if name != "temperature"}
        if temperature is not None:
            metrics["temperature"] = temperature
        evaluation = Evaluation(0.5, 0.5, logits, logits.argmax(1), targets)
        return EvaluatedRun(
            run=Path(short_run),
            settings=read_settings(short_run),
            checkpoint=replace(checkpoint, metrics=metrics),
            data=data,
            split="test",
            evaluation=evaluation,
            parameters=1,
            device="CPU",
        )

    return make


class PageReader(HTMLParser):
    """The table cells, tags, addresses and text of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


@pytest.fixture
def read() -> Callable[[str], PageReader]:
    """Return a function that parses a page."""

    def reader(page: str) -> PageReader:
        parsed = PageReader()
        parsed.feed(page)
        return parsed

    return reader
