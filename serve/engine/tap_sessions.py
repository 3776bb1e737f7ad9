"""Sessions that give layers beside a model's own outputs.

A value of the graph can only be fetched where it is a graph output, so each set of layers needs a session of its own.
It is built when first asked for, and gives the model's own outputs as well, so that a tapped request is one run. A few
are kept; the one unused for longest goes first.
"""

import asyncio
from collections import OrderedDict
from pathlib import Path

from serve.engine.session import Session


class Taps:
    """Sessions of one model by the values they give beside its outputs. `limit` is how many are kept, 1 or more."""

    def __init__(self, path: Path, plain: Session, limit: int) -> None:
        self._path, self._plain, self._limit = path, plain, limit
        self._sessions: OrderedDict[frozenset[str], Session] = OrderedDict()
        self._building = asyncio.Lock()  # one at a time: each takes the cores and the model's memory once more

    async def session(self, values: frozenset[str]) -> Session:
        """Return the session that gives `values`; where it is new, other requests go on while it is built.

        Raises:
            BadModelError: onnxruntime cannot give these values.
        """
        if not values:
            return self._plain
        if values not in self._sessions:
            async with self._building:
                if values not in self._sessions:
                    self._sessions[values] = await asyncio.to_thread(self._build, values)
        self._sessions.move_to_end(values)
        session = self._sessions[values]
        while len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)
        return session

    def _build(self, values: frozenset[str]) -> Session:
        return self._plain.opened_with(with_outputs(self._path, values))


def with_outputs(model: Path, values: frozenset[str]) -> bytes:
    """Return the model with `values` among its outputs, as bytes; weights outside the file stay outside."""
    import onnx

    opened = onnx.load(model, load_external_data=False)
    known = {output.name for output in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=value) for value in sorted(values - known))
    return opened.SerializeToString()
