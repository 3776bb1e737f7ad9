"""Finds out by trial runs whether a model without a configuration accepts batches.

The shapes of a graph do not tell: a model whose first dimension is symbolic may run at one size only, return another
number of rows, or compute each row from all of them. Served in batches, it would return rows of other clients.
"""

import logging
import math
from collections.abc import Iterator, Mapping

import numpy as np

from protos import inference
from serve.devices.memory import available_bytes
from serve.engine.session import Session
from serve.repository import model_config
from serve.wire import datatypes
from serve.wire.tensors import Array, TensorSpec

log = logging.getLogger(__name__)
ROWS = 4  # an even number: each second row is the opposite of the one before
DYNAMIC_SIZES = (32, 224, 8, 1)  # tried for all dynamic dimensions but the first, until the model runs
TOLERANCE = 0.01  # of an output's largest value: sums of floats depend a little on the batch size
Inputs = Mapping[str, Array]


def max_batch_size(session: Session, config: inference.ModelConfig | None, limit: int, name: str) -> int:
    """Return `limit` if the configuration does not define batches, but the model accepts them; else 0."""
    if not limit or not model_config.is_bare(config):
        return 0
    if not model_config.is_batched_graph(session.inputs, session.outputs):
        return 0
    reason = _reason_against(session)
    if reason:
        log.warning("%s is served without batches: %s; max_batch_size in a config.pbtxt overrides this", name, reason)
    return 0 if reason else limit


def _reason_against(session: Session) -> str:
    """Return why a model cannot be batched; empty if it can."""
    for inputs in _samples(session):
        rows = [session.trial_run(_row(inputs, index)) for index in range(ROWS)]
        if any(row is None for row in rows):
            continue
        batch = session.trial_run(inputs)
        if batch is None:
            return f"it runs on one row, but not on {ROWS}"
        singles = [row for row in rows if row is not None]
        return next(filter(None, (_difference(name, singles, batch[name]) for name in batch)), "")
    return "it does not run on the sizes and values that were tried"


def _difference(name: str, rows: list[dict[str, Array]], batch: Array) -> str:
    """Return how an output for a batch differs from those for its rows; empty if they agree."""
    if batch.shape[:1] != (ROWS,):
        return f"its output '{name}' has the shape {list(batch.shape)} for {ROWS} rows"
    if any(row[name].shape != (1, *batch.shape[1:]) for row in rows):
        return f"the shape of its output '{name}' depends on the values of its inputs"
    expected = np.concatenate([row[name] for row in rows])
    return "" if _are_close(expected, batch) else f"a row of its output '{name}' depends on the other rows of the batch"


def _are_close(expected: Array, actual: Array) -> bool:
    if expected.dtype == datatypes.BF16.numpy:
        expected, actual = datatypes.float32_from_bf16(expected), datatypes.float32_from_bf16(actual)
    if expected.dtype.kind != "f":
        return bool(np.array_equal(expected, actual))
    largest = np.max(np.abs(expected), initial=0, where=np.isfinite(expected)).astype(np.float64)
    return bool(np.allclose(actual, expected, rtol=0, atol=TOLERANCE * largest, equal_nan=True))


def _samples(session: Session) -> Iterator[Inputs]:
    """Yield batches of ROWS different rows: one, or one for each size of the dynamic dimensions."""
    is_dynamic = any(-1 in spec.shape[1:] for spec in session.inputs)
    for size in DYNAMIC_SIZES if is_dynamic else DYNAMIC_SIZES[:1]:
        shapes = {
            spec: (ROWS, *(size if length == -1 else length for length in spec.shape[1:])) for spec in session.inputs
        }
        if _fits(shapes):
            yield {spec.name: _rows(spec, shape) for spec, shape in shapes.items()}


def _fits(shapes: Mapping[TensorSpec, tuple[int, ...]]) -> bool:
    size = sum(math.prod(shape) * datatypes.BY_NAME[spec.datatype].numpy.itemsize for spec, shape in shapes.items())
    available = available_bytes()
    return available is None or size < available / 4  # the rows, their copies and a margin


def _rows(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Return random rows; each second one is the opposite of the one before, so that no condition holds for all."""
    datatype, random = datatypes.BY_NAME[spec.datatype], np.random.default_rng(0)
    half = (shape[0] // 2, *shape[1:])
    if datatype.numpy.kind == "f":
        values = random.standard_normal(half)
        return _interleaved(values, -values).astype(datatype.numpy)
    bits = random.integers(0, 2, half)
    both = _interleaved(bits, 1 - bits)  # small numbers, because they may be indices
    if datatype is datatypes.BYTES:
        return both.astype(str).astype(object)
    if datatype is datatypes.BF16:
        return np.where(both, 0x3F80, 0xBF80).astype("<u2").view(datatypes.BF16.numpy)
    return both.astype(datatype.numpy)


def _interleaved(first: Array, second: Array) -> Array:
    """Return the rows of two arrays in turn."""
    return np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def _row(inputs: Inputs, index: int) -> Inputs:
    return {name: array[index : index + 1] for name, array in inputs.items()}
