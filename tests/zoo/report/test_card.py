"""The model card."""

from dataclasses import replace

import pytest
import torch
import yaml

from zoo.report.card import front_matter, render_card, write_card
from zoo.transfer.pretrained import Origin


def parsed(text):
    """Return the parsed front matter of a card, and its body."""
    before, front, body = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(front), body


def test_front_matter(evaluated_run, tmp_path):
    """The front matter has the licence, library, tags, dataset and measured accuracy."""
    write_card(tmp_path / "README.md", evaluated_run)
    front, _ = parsed((tmp_path / "README.md").read_text())
    assert front["license"] == "unknown"
    assert front["library_name"] == "timm"
    assert {"image-classification", "zoonnx", "convnet4"} <= set(front["tags"])
    assert (front["datasets"], front["metrics"]) == (["digits"], ["accuracy"])
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["value"] == pytest.approx(evaluated_run.evaluation.accuracy, abs=1e-6)


def test_body(evaluated_run):
    """The text has the dataset's caveat, the commands to repeat and to use the run, and the missing licence."""
    _, body = parsed(render_card(evaluated_run).decode())
    assert "13 writers are shared between the splits" in body
    assert "zoonnx train convnet4 --data digits" in body
    assert "zoonnx export short --to models" in body
    assert "No licence is known" in body


def test_licence_of_the_initial_weights(evaluated_run):
    """A known licence of the initial weights is the card's licence."""
    front = front_matter(evaluated_run, Origin("apache-2.0", "https://example.org/net"))
    assert yaml.safe_load(front)["license"] == "apache-2.0"


def test_names_are_escaped(make_evaluated_run):
    """A class name cannot end a line, a table or the front matter, or insert HTML or a link."""
    labels = ("a | b\n---\nlicense: mit", "<b>bold</b>", "[x](http://example.org)\udce9")
    hostile = make_evaluated_run(torch.eye(3), torch.tensor([1, 2, 0]), labels)
    hostile = replace(hostile, data=replace(hostile.data, name="folder:-\n---\nx: y"))
    front, body = parsed(render_card(hostile).decode())
    assert front["license"] == "unknown"
    assert "<b>" not in body
    assert "[x](" not in body
    assert "\n---\n" not in body
    assert "x" not in front


def test_multi_label_card(make_evaluated_run):
    """For images with several labels the headline metric is mean average precision."""
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    front, body = parsed(
        render_card(make_evaluated_run(torch.tensor([[2.0, -1], [1, -1], [-1, 2]]), targets, ("cat", "dog"))).decode()
    )
    assert front["metrics"] == ["mean_average_precision"]
    assert "images with all labels correct" in body
    assert "one of its classes" not in body
