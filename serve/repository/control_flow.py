"""Finds out whether a model's computing time depends on its data, without parsing the file."""

import mmap
from pathlib import Path

MAX_FILE_BYTES = 2**26  # larger files are not searched
OP_TYPE_TAG = bytes([4 << 3 | 2])  # of NodeProto.op_type
LOOPS = tuple(OP_TYPE_TAG + bytes([len(name)]) + name for name in (b"Loop", b"Scan"))


def may_loop(model: Path) -> bool:
    """Return whether a model may have loops: its file contains the bytes of such a node, or is too large to search."""
    size = model.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        return size > 0
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(loop) >= 0 for loop in LOOPS)
