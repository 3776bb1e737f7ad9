"""The model card."""

from dataclasses import replace

import pytest
import torch
import yaml

from zoo.report.card import card_of, front_matter, write_card
from zoo.transfer.pretrained import Origin


def divided(text):
    """The front matter, read, and the rest."""
    empty, front, body = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), body


def test_the_front_matter_is_the_hubs(subject, tmp_path):
    """Licence, library, tags, data and the accuracy that was measured."""
    write_card(tmp_path / "README.md", subject)
    front, _ = divided((tmp_path / "README.md").read_text())
    assert front["license"] == "unknown"
    assert front["library_name"] == "timm"
    assert {"image-classification", "zoonnx", "convnet4"} <= set(front["tags"])
    assert (front["datasets"], front["metrics"]) == (["digits"], ["accuracy"])
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["value"] == pytest.approx(subject.evaluation.accuracy, abs=1e-6)


def test_the_text_says_what_to_mind(subject):
    """What the data do not tell, how to repeat, how to use."""
    _, body = divided(card_of(subject).decode())
    assert "13 writers are shared between the splits" in body
    assert "zoonnx train convnet4 --data digits" in body
    assert "zoonnx export short --to models" in body
    assert "No licence is known" in body


def test_licence_and_origin_of_the_first_weights(subject):
    """Are named where they are known."""
    front = front_matter(subject, Origin("apache-2.0", "https://example.org/net"))
    assert yaml.safe_load(front)["license"] == "apache-2.0"


def test_names_from_outside_are_text(made_up):
    """A class name cannot end a line, a table or the front matter, nor bring HTML or a link."""
    labels = ("a | b\n---\nlicense: mit", "<b>bold</b>", "[x](http://example.org)\udce9")
    hostile = made_up(torch.eye(3), torch.tensor([1, 2, 0]), labels)
    hostile = replace(hostile, data=replace(hostile.data, name="folder:-\n---\nx: y"))
    front, body = divided(card_of(hostile).decode())
    assert front["license"] == "unknown"
    assert "<b>" not in body
    assert "[x](" not in body
    assert "\n---\n" not in body
    assert "x" not in front


def test_several_labels(made_up):
    """Mean average precision is the headline."""
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    front, body = divided(
        card_of(made_up(torch.tensor([[2.0, -1], [1, -1], [-1, 2]]), targets, ("cat", "dog"))).decode()
    )
    assert front["metrics"] == ["mean_average_precision"]
    assert "images with all labels right" in body
    assert "one of its classes" not in body
