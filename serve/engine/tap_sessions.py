"""Sessions with layer outputs beside a model's own outputs.

onnxruntime returns a value of the graph only if it is a graph output, so each combination of layers needs a separate
session. It is built on first request, and also has the model's own outputs, so that one run computes everything that a
request names. The least recently used sessions are dropped.
"""

import threading
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
        self._lock = threading.Lock()
        self._build_lock = threading.Lock()  # a build uses all cores, and memory for another copy of the model

    def cached(self, values: frozenset[str]) -> Session | None:
        """Return the session that also returns `values`; None if it must be built first."""
        if not values:
            return self._plain
        with self._lock:
            session = self._sessions.get(values)
            if session is not None:
                self._sessions.move_to_end(values)
            return session

    def build(self, values: frozenset[str]) -> Session:
        """Return the session that also returns `values`, after building it if necessary, which may take seconds.

        Raises:
            BadModelError: onnxruntime cannot return these values.
        """
        with self._build_lock:
            session = self.cached(values) or self._build(values)
            with self._lock:
                self._sessions[values] = session
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
