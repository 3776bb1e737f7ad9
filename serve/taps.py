"""Sessions that give layers beside a model's own outputs.

A value of the graph can only be fetched where it is a graph output, so each set of layers needs a session of its own.
It is built when first asked for, and gives the model's own outputs as well, so that a tapped request is one run. A few
are kept; the one unused for longest goes first.
"""

from collections import OrderedDict
from pathlib import Path

from serve.session import Session


class Taps:
    """Sessions of one model by the values they give beside its outputs. `limit` is how many are kept, 1 or more."""

    def __init__(self, path: Path, plain: Session, limit: int) -> None:
        self._path, self._plain, self._limit = path, plain, limit
        self._sessions: OrderedDict[frozenset[str], Session] = OrderedDict()

    def session(self, values: frozenset[str]) -> Session:
        """Return the session that gives `values`, building it if need be: up to seconds, in the model's own thread.

        Raises:
            BadModelError: onnxruntime cannot give these values.
        """
        if not values:
            return self._plain
        if values not in self._sessions:
            self._sessions[values] = self._plain.opened_with(with_outputs(self._path, values))
            while len(self._sessions) > self._limit:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(values)
        return self._sessions[values]


def with_outputs(model: Path, values: frozenset[str]) -> bytes:
    """Return the model with `values` among its outputs, as bytes; weights outside the file stay outside."""
    import onnx

    opened = onnx.load(model, load_external_data=False)
    known = {output.name for output in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=value) for value in sorted(values - known))
    return opened.SerializeToString()
