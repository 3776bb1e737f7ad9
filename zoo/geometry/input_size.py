"""Parsing of input sizes written as C,H,W. Does not import torch."""

from zoo.errors import GeometryError


def parse_size(text: str) -> tuple[int, ...]:
    """Parse `C,H,W`, or `C,L` for a signal.

    Raises:
        GeometryError: `text` is not two or three whole numbers, each at least 1.
    """
    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise GeometryError(f"an input size is C,H,W, such as 3,224,224, each 1 or more; got '{text}'")
    return tuple(int(part) for part in parts)


def parse_input_size(text: str | None) -> tuple[int, int, int] | None:
    """Parse an image's `C,H,W` as (C, H, W), or a signal's `C,L` as (C, 1, L); return None for None."""
    if text is None:
        return None
    size = parse_size(text)
    return (size[0], size[1], size[2]) if len(size) == 3 else (size[0], 1, size[1])
