"""Sessions with layer outputs beside a model's own outputs.

onnxruntime returns a value of the graph only if it is a graph output, so each combination of layers needs a separate
session. It is built on first request, and also has the model's own outputs, so that one run computes everything that a
request names. The least recently used sessions are dropped.
"""

import asyncio
from collections import OrderedDict
from pathlib import Path

from serve.engine.session import Session


class TapSessions:
    """Cache of one model's sessions, by the graph values that they return in addition to the model's outputs.

    Args:
        path: The model's file.
        plain: Its session without layer outputs.
        limit: Largest number of cached sessions, 1 or more; `plain` does not count.
    """

    def __init__(self, path: Path, plain: Session, limit: int) -> None:
        self._path, self._plain, self._limit = path, plain, limit
        self._sessions: OrderedDict[frozenset[str], Session] = OrderedDict()
        self._build_lock = asyncio.Lock()  # a build uses all cores, and memory for another copy of the model

    async def session(self, values: frozenset[str]) -> Session:
        """Return the session that also returns `values`; other requests run while it is built.

        Raises:
            BadModelError: onnxruntime cannot return these values.
        """
        if not values:
            return self._plain
        if values not in self._sessions:
            async with self._build_lock:
                if values not in self._sessions:
                    self._sessions[values] = await asyncio.to_thread(self._build, values)
        self._sessions.move_to_end(values)
        session = self._sessions[values]
        while len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)
        return session

    def _build(self, values: frozenset[str]) -> Session:
        return self._plain.reopen_with(add_outputs(self._path, values))


def add_outputs(path: Path, values: frozenset[str]) -> bytes:
    """Return the model at `path`, serialised, with `values` among its outputs; external weights stay external."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in sorted(values - outputs))
    return model.SerializeToString()
