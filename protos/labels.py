"""Format of labels.txt: UTF-8, one label per line, in class order. Only a line feed ends a line, as in Triton.

Files of other programs may begin with a byte order mark or end their lines with CR LF; neither is part of a label.
"""

from collections.abc import Iterable

BYTE_ORDER_MARK = "\ufeff"


def parse_labels(content: bytes) -> list[str]:
    """Return the labels in a file's content. Raises: UnicodeDecodeError."""
    text = content.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def labels_text(labels: Iterable[str]) -> str:
    """Return the text of a file with these labels; `unwritable_label` returns a label that it cannot hold."""
    return "".join(f"{label}\n" for label in labels)


def unwritable_label(labels: Iterable[str]) -> str | None:
    """Return the first label that a reader of labels.txt would not get back, such as one with a line feed."""
    return next((label for label in labels if not _is_writable(label)), None)


def _is_writable(label: str) -> bool:
    try:
        return parse_labels(labels_text([label]).encode()) == [label]
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is not UTF-8
        return False
