"""Warm-up runs before a model accepts requests, one for each batch size that it will run.

The first run of a model is slow. On a GPU, the first run of each shape is slow, too, so batches are padded to a few
sizes, the buckets. On a CPU, one warm-up run suffices for all sizes.
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

    Empty for a CPU and for a model without batches, which run any size.
    """
    if device == "cpu" or max_batch_size <= 1:
        return ()
    powers = [2**exponent for exponent in range(max_batch_size.bit_length())]
    return tuple(sorted({*powers, *preferred, max_batch_size}))


def run_configured_warmup(session: Session, config: inference.ModelConfig, signature: Signature) -> None:
    """Run the `model_warmup` samples of a configuration, on zeros or random numbers.

    Samples that read data files are skipped and logged.

    Raises:
        BadModelError: A sample does not run, or its inputs are not the model's.
    """
    for sample in config.model_warmup:
        if any(sample_input.input_data_file for sample_input in sample.inputs.values()):
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
        inputs = {name: _sample_input(sample_input, rows) for name, sample_input in sample.inputs.items()}
    except (KeyError, ValueError, MemoryError) as error:
        reason = f"the warm-up '{sample.name}' has an input without a datatype, or of an impossible shape."
        raise BadModelError(f"model '{model}': {reason}") from error
    if not all(session.warm_up_run(inputs) for _ in range(max(1, sample.count))):
        raise BadModelError(f"model '{model}' does not run on its warm-up '{sample.name}'.")


def _sample_input(sample_input: inference.ModelWarmup.Input, rows: tuple[int, ...]) -> Array:
    datatype, shape = datatypes.BY_CONFIG[sample_input.data_type], (*rows, *sample_input.dims)
    if datatype is datatypes.BYTES:
        return np.full(shape, "", object)
    if not sample_input.random_data or datatype is datatypes.BF16:
        return np.zeros(shape, datatype.numpy)
    return np.random.default_rng(0).random(shape).astype(datatype.numpy)


def warm_up(session: Session, signature: Signature, batch_sizes: Sequence[int], name: str) -> int | None:
    """Run a model on zeros once for each batch size, or for a batch of 1 if there are none.

    Returns the nanoseconds of another run of the smallest size; None if the model does not run.

    The largest size runs first, so that a lack of memory is detected at once. A model that fails on zeros may work on
    other inputs, so this is only logged.

    Raises:
        BadModelError: The model does not fit into the memory.
    """
    if any(-1 in _sample_shape(signature, spec) for spec in signature.inputs):
        log.info("%s is not warmed up: it has inputs of dynamic size", name)
        return None
    start_s, sizes = time.perf_counter(), sorted(batch_sizes or (1,), reverse=True)
    for size in sizes:
        if not session.warm_up_run({spec.name: _zeros(signature, spec, size, name) for spec in signature.inputs}):
            log.info("%s is not warmed up: it does not run on zeros", name)
            return None
    log.info("%s is warmed up in %.2f s, with batches of %s", name, time.perf_counter() - start_s, sizes)
    start_ns = time.perf_counter_ns()
    session.warm_up_run({spec.name: _zeros(signature, spec, sizes[-1], name) for spec in signature.inputs})
    return time.perf_counter_ns() - start_ns


def _sample_shape(signature: Signature, spec: TensorSpec) -> tuple[int, ...]:
    """Return an input's shape without the batch."""
    return spec.shape[1:] if signature.max_batch_size else spec.shape


def _zeros(signature: Signature, spec: TensorSpec, size: int, name: str) -> Array:
    shape = (*((size,) if signature.max_batch_size else ()), *_sample_shape(signature, spec))
    dtype, available = datatypes.BY_NAME[spec.datatype].numpy, available_bytes()
    try:
        if available is not None and math.prod(shape) * dtype.itemsize > available:
            raise MemoryError
        return np.full(shape, "", object) if spec.datatype == datatypes.BYTES.name else np.zeros(shape, dtype)
    except (ValueError, MemoryError) as error:
        reason = f"its input '{spec.name}' of shape {list(shape)} needs more memory than is available"
        raise BadModelError(f"{name} does not fit: {reason}.") from error
