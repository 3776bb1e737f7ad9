"""The format of labels.txt."""

import pytest

from protos.labels import labels_text, parse_labels, unwritable_label

CONTENTS = {
    b"cat\ndog\n": ["cat", "dog"],
    b"cat\ndog": ["cat", "dog"],
    b"\xef\xbb\xbfcat\r\ndog\r\n": ["cat", "dog"],
    b"cat\n\ndog\n": ["cat", "", "dog"],
    b"\n": [""],
    b"": [],
    b"\xef\xbb\xbf": [],
    "cat\ndog\nbird\u2028x\nowl\n".encode(): ["cat", "dog", "bird\u2028x", "owl"],
    "a\x85b\x0bc\x0cd\x1ce\u2029f\rg\nh\n".encode(): ["a\x85b\x0bc\x0cd\x1ce\u2029f\rg", "h"],
}


@pytest.mark.parametrize(("content", "labels"), CONTENTS.items())
def test_only_line_feeds_divide_labels(content: bytes, labels: list[str]) -> None:
    """A byte order mark and the CR of CR LF are dropped; every other character is part of its label."""
    assert parse_labels(content) == labels


@pytest.mark.parametrize("label", ["cat", "", " a ", "zürich", "a\u2028b", "a\x85", "a\rb", "x\ufeff"])
def test_written_labels_are_read_back(label: str) -> None:
    """A reader gets the labels that were written."""
    assert unwritable_label(["first", label]) is None
    assert parse_labels(labels_text(["first", label, "last"]).encode()) == ["first", label, "last"]


@pytest.mark.parametrize("label", ["a\nb", "a\n", "\n", "a\r", "\ufeffa", "a\udc80"])
def test_unwritable_label(label: str) -> None:
    """A label that a reader would not get back is found before it is written."""
    assert unwritable_label(["first", label, "last"]) == label
