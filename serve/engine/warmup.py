"""The first runs of a model are slow: they are made before it takes requests, one for each size of batch it will meet.

On a GPU each new shape is planned anew, so batches come in few sizes, `buckets`, and are filled up. A CPU runs any size
as it comes; one run wakes it.
"""

import logging
import math
import time
from collections.abc import Sequence

import numpy as np

from protos import inference
from serve.devices.memory import available_bytes
from serve.engine.session import Device, Session
from serve.errors import BadModelError
from serve.repository.model_config import Signature
from serve.wire import datatypes
from serve.wire.tensors import Array, TensorSpec

log = logging.getLogger(__name__)


def buckets(device: Device, largest: int, preferred: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of batch that a device runs: powers of two, the preferred ones, `largest`; none for a CPU."""
    if device == "cpu" or largest <= 1:
        return ()
    doubling = [2**power for power in range(largest.bit_length())]
    return tuple(sorted({*doubling, *preferred, largest}))


def run_configured_warmup(session: Session, config: inference.ModelConfig, signature: Signature) -> None:
    """Run the samples that the configuration's `model_warmup` describes, by zeros or by random numbers.

    Samples of its own files are passed over, which is logged.

    Raises:
        BadModelError: a sample does not run, or names other inputs than the model's.
    """
    for sample in config.model_warmup:
        if any(each.input_data_file for each in sample.inputs.values()):
            log.info("%s: the warm-up '%s' reads files, which has no effect here", config.name, sample.name)
            continue
        names = [spec.name for spec in signature.inputs]
        if sorted(sample.inputs) != sorted(names):
            given, known = ", ".join(sorted(sample.inputs)), ", ".join(names)
            raise BadModelError(
                f"model '{config.name}': the warm-up '{sample.name}' has inputs {given}; the model has {known}."
            )
        rows = (max(1, sample.batch_size),) if signature.max_batch_size else ()
        try:
            inputs = {name: _made_up(each, rows) for name, each in sample.inputs.items()}
        except (KeyError, ValueError, MemoryError) as error:
            words = f"the warm-up '{sample.name}' has an input without a datatype, or of an impossible shape."
            raise BadModelError(f"model '{config.name}': {words}") from error
        if not all(session.warm_up_run(inputs) for _ in range(max(1, sample.count))):
            raise BadModelError(f"model '{config.name}' does not run on its warm-up '{sample.name}'.")


def _made_up(described: inference.ModelWarmup.Input, rows: tuple[int, ...]) -> Array:
    datatype, shape = datatypes.BY_CONFIG[described.data_type], (*rows, *described.dims)
    if datatype is datatypes.BYTES:
        return np.full(shape, "", object)
    if not described.random_data or datatype is datatypes.BF16:
        return np.zeros(shape, datatype.numpy)
    return np.random.default_rng(0).random(shape).astype(datatype.numpy)


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
        if not session.warm_up_run({spec.name: _zeros(signature, spec, size, name) for spec in signature.inputs}):
            log.info("%s is not warmed up: it does not run on zeros", name)
            return
    log.info("%s is warmed up in %.2f s, with batches of %s", name, time.perf_counter() - start_s, wanted)


def _behind_batch(signature: Signature, spec: TensorSpec) -> tuple[int, ...]:
    return spec.shape[1:] if signature.max_batch_size else spec.shape


def _zeros(signature: Signature, spec: TensorSpec, size: int, name: str) -> Array:
    shape = (*((size,) if signature.max_batch_size else ()), *_behind_batch(signature, spec))
    dtype, free = datatypes.BY_NAME[spec.datatype].numpy, available_bytes()
    try:
        if free is not None and math.prod(shape) * dtype.itemsize > free:
            raise MemoryError
        return np.full(shape, "", object) if spec.datatype == datatypes.BYTES.name else np.zeros(shape, dtype)
    except (ValueError, MemoryError) as error:
        words = f"its input '{spec.name}' of shape {list(shape)} takes more memory than there is"
        raise BadModelError(f"{name} does not fit: {words}.") from error
