"""The first runs of a model are slow: they are made before it takes requests, one for each size of batch it will meet.

On a GPU each new shape is planned anew, so batches come in few sizes, `buckets`, and are filled up. A CPU runs any size
as it comes; one run wakes it.
"""

import logging
import time
from collections.abc import Sequence

import numpy as np

from serve import datatypes
from serve.model_config import Signature
from serve.session import Device, Session
from serve.tensors import Array, TensorSpec

log = logging.getLogger(__name__)


def buckets(device: Device, largest: int, preferred: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of batch that a device runs: powers of two, the preferred ones, `largest`; none for a CPU."""
    if device == "cpu" or largest <= 1:
        return ()
    doubling = [2**power for power in range(largest.bit_length())]
    return tuple(sorted({*doubling, *preferred, largest}))


def warm_up(session: Session, signature: Signature, sizes: Sequence[int], name: str) -> None:
    """Run the model on zeros, once for each size of batch, the largest first: where memory is short it shows at once.

    A model that fails on zeros may still do for what it is made for; that is logged.

    Raises:
        BadModelError: the model does not fit into the memory.
    """
    if any(-1 in _behind_batch(signature, spec) for spec in signature.inputs):
        log.info("%s is not warmed up: it takes inputs of free sizes", name)
        return
    start_s, wanted = time.perf_counter(), sorted(sizes or (1,), reverse=True)
    for size in wanted:
        if not session.rehearse({spec.name: _zeros(signature, spec, size) for spec in signature.inputs}):
            log.info("%s is not warmed up: it does not run on zeros", name)
            return
    log.info("%s is warmed up in %.2f s, with batches of %s", name, time.perf_counter() - start_s, wanted)


def _behind_batch(signature: Signature, spec: TensorSpec) -> tuple[int, ...]:
    return spec.shape[1:] if signature.max_batch_size else spec.shape


def _zeros(signature: Signature, spec: TensorSpec, size: int) -> Array:
    shape = (*((size,) if signature.max_batch_size else ()), *_behind_batch(signature, spec))
    dtype = datatypes.BY_NAME[spec.datatype].numpy
    return np.full(shape, "", object) if spec.datatype == datatypes.BYTES.name else np.zeros(shape, dtype)
