"""Warm-up runs before a model accepts requests, one for each batch size that it will run.

The first run of a model is slow. A GPU also plans each new shape anew, so batches are padded to a few sizes, the
buckets. A CPU runs any size without planning; one warm-up run suffices.
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


def buckets(device: Device, max_batch_size: int, preferred: Sequence[int]) -> tuple[int, ...]:
    """Return the batch sizes that a device runs, ascending: powers of two, `preferred`, `max_batch_size`.

    Empty for a CPU and for a model without batches: these run every size.
    """
    if device == "cpu" or max_batch_size <= 1:
        return ()
    powers = [2**exponent for exponent in range(max_batch_size.bit_length())]
    return tuple(sorted({*powers, *preferred, max_batch_size}))


def run_configured_warmup(session: Session, config: inference.ModelConfig, signature: Signature) -> None:
    """Run the `model_warmup` samples of a configuration, on zeros or random numbers.

    Samples that read data files are skipped, with a line in the log.

    Raises:
        BadModelError: a sample does not run, or its inputs are not the model's.
    """
    for sample in config.model_warmup:
        if any(described.input_data_file for described in sample.inputs.values()):
            log.info("%s: skipping the warm-up '%s': input_data_file is not supported", config.name, sample.name)
            continue
        _run_sample(session, config.name, sample, signature)


def _run_sample(session: Session, model: str, sample: inference.ModelWarmup, signature: Signature) -> None:
    names = [spec.name for spec in signature.inputs]
    if sorted(sample.inputs) != sorted(names):
        sample_names, model_names = ", ".join(sorted(sample.inputs)), ", ".join(names)
        raise BadModelError(
            f"model '{model}': the warm-up '{sample.name}' has inputs {sample_names}; the model has {model_names}."
        )
    rows = (max(1, sample.batch_size),) if signature.max_batch_size else ()
    try:
        inputs = {name: _sample_input(described, rows) for name, described in sample.inputs.items()}
    except (KeyError, ValueError, MemoryError) as error:
        reason = f"the warm-up '{sample.name}' has an input without a datatype, or of an impossible shape."
        raise BadModelError(f"model '{model}': {reason}") from error
    if not all(session.warm_up_run(inputs) for _ in range(max(1, sample.count))):
        raise BadModelError(f"model '{model}' does not run on its warm-up '{sample.name}'.")


def _sample_input(described: inference.ModelWarmup.Input, rows: tuple[int, ...]) -> Array:
    datatype, shape = datatypes.BY_CONFIG[described.data_type], (*rows, *described.dims)
    if datatype is datatypes.BYTES:
        return np.full(shape, "", object)
    if not described.random_data or datatype is datatypes.BF16:
        return np.zeros(shape, datatype.numpy)
    return np.random.default_rng(0).random(shape).astype(datatype.numpy)


def warm_up(session: Session, signature: Signature, batch_sizes: Sequence[int], name: str) -> None:
    """Run a model on zeros once for each batch size, or for a batch of 1 where there are none.

    The largest size runs first, so that a lack of memory shows at once. A model that fails on zeros may still work on
    its real inputs; that is only logged.

    Raises:
        BadModelError: the model does not fit into the memory.
    """
    if any(-1 in _sample_shape(signature, spec) for spec in signature.inputs):
        log.info("%s is not warmed up: it has inputs of dynamic size", name)
        return
    start_s, sizes = time.perf_counter(), sorted(batch_sizes or (1,), reverse=True)
    for size in sizes:
        if not session.warm_up_run({spec.name: _zeros(signature, spec, size, name) for spec in signature.inputs}):
            log.info("%s is not warmed up: it does not run on zeros", name)
            return
    log.info("%s is warmed up in %.2f s, with batches of %s", name, time.perf_counter() - start_s, sizes)


def _sample_shape(signature: Signature, spec: TensorSpec) -> tuple[int, ...]:
    """Return an input's shape without the batch."""
    return spec.shape[1:] if signature.max_batch_size else spec.shape


def _zeros(signature: Signature, spec: TensorSpec, size: int, name: str) -> Array:
    shape = (*((size,) if signature.max_batch_size else ()), *_sample_shape(signature, spec))
    dtype, free = datatypes.BY_NAME[spec.datatype].numpy, available_bytes()
    try:
        if free is not None and math.prod(shape) * dtype.itemsize > free:
            raise MemoryError
        return np.full(shape, "", object) if spec.datatype == datatypes.BYTES.name else np.zeros(shape, dtype)
    except (ValueError, MemoryError) as error:
        reason = f"its input '{spec.name}' of shape {list(shape)} needs more memory than is available"
        raise BadModelError(f"{name} does not fit: {reason}.") from error
