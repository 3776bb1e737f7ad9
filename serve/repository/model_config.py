"""Completes a model's configuration from its graph, and refuses what this server cannot do."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from protos import inference
from serve.batching.queue import BatchSettings, QueuePolicy
from serve.errors import BadModelError
from serve.wire import datatypes
from serve.wire.tensors import TensorSpec

log = logging.getLogger(__name__)
BACKEND, PLATFORM = "onnxruntime", "onnxruntime_onnx"
DEFAULT_BATCH = 4  # Triton's, for a model that batches and does not say how much
Entry = inference.ModelInput | inference.ModelOutput

# What config.pbtxt may ask for that would change answers, and is not done here.
MOST_INSTANCES = 256  # each has a thread of its own
REFUSED: dict[str, Callable[[inference.ModelConfig], bool]] = {
    f"a backend other than {BACKEND}": lambda c: c.backend not in ("", BACKEND) or c.platform not in ("", PLATFORM),
    "ensemble_scheduling": lambda c: c.HasField("ensemble_scheduling"),
    "sequence_batching": lambda c: c.HasField("sequence_batching"),
    "a decoupled transaction policy": lambda c: c.model_transaction_policy.decoupled,
    "batch_input or batch_output": lambda c: bool(c.batch_input or c.batch_output),
    "reshape": lambda c: any(each.HasField("reshape") for each in (*c.input, *c.output)),
    "allow_ragged_batch": lambda c: any(each.allow_ragged_batch for each in c.input),
    "optional inputs": lambda c: any(each.optional for each in c.input),
    "a custom operator library": lambda c: bool(c.model_operations.op_library_filename),
}
IGNORED = ("optimization", "response_cache", "model_metrics")


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives; a `max_batch_size` of 0 means that shapes have no batch of ours."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int

    @cached_property
    def output_names(self) -> frozenset[str]:
        """What can be asked for beside layers."""
        return frozenset(each.name for each in self.outputs)


def complete(
    written: inference.ModelConfig | None, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> inference.ModelConfig:
    """Return the whole configuration of a model whose graph has `inputs` and `outputs`.

    Raises:
        BadModelError: the configuration contradicts the graph, or asks for what this server cannot do.
    """
    config = inference.ModelConfig()
    if written:
        config.CopyFrom(written)
        _refuse(config, name)
    if not config.input and not config.output and not config.max_batch_size:
        config.max_batch_size = DEFAULT_BATCH if _share_a_batch(inputs, outputs) else 0
        if config.max_batch_size and not config.WhichOneof("scheduling_choice"):
            config.dynamic_batching.SetInParent()
    if config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size:
        config.dynamic_batching.preferred_batch_size.append(max(1, config.max_batch_size))
    config.name, config.backend, config.platform = name, BACKEND, PLATFORM
    config.default_model_filename = config.default_model_filename or "model.onnx"
    if not config.version_policy.WhichOneof("policy_choice"):
        config.version_policy.latest.num_versions = 1
    _complete_inputs(config, inputs)
    _complete_outputs(config, outputs)
    return config


def signature(config: inference.ModelConfig) -> Signature:
    """What a completed configuration says, with the batch in the shapes."""
    return Signature(
        inputs=tuple(_spec(each, config.max_batch_size) for each in config.input),
        outputs=tuple(_spec(each, config.max_batch_size) for each in config.output),
        max_batch_size=config.max_batch_size,
    )


def batch_settings(config: inference.ModelConfig) -> BatchSettings:
    """How requests for the model may be put together; without `dynamic_batching` each runs by itself."""
    if not config.HasField("dynamic_batching"):
        return BatchSettings(max_rows=1, instances=instances(config))
    batching = config.dynamic_batching
    return BatchSettings(
        max_rows=max(1, config.max_batch_size),
        max_delay_us=int(batching.max_queue_delay_microseconds),
        preferred=tuple(preferred(config)),
        levels=int(batching.priority_levels),
        default_level=int(batching.default_priority_level),
        policy=_policy(batching.default_queue_policy),
        policies={int(level): _policy(policy) for level, policy in batching.priority_queue_policy.items()},
        instances=instances(config),
    )


def instances(config: inference.ModelConfig) -> int:
    """How many batches of the model run at once; a group that does not say has one. Raises: BadModelError."""
    count = sum(group.count or 1 for group in config.instance_group) or 1
    if not 1 <= count <= MOST_INSTANCES:
        raise BadModelError(
            f"the instance_group of config.pbtxt asks for {count} instances of the model; 1 to {MOST_INSTANCES} can be."
        )
    return count


def preferred(config: inference.ModelConfig) -> Sequence[int]:
    """The sizes of batch that the configuration prefers."""
    return tuple(config.dynamic_batching.preferred_batch_size)


def _policy(written: inference.ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_waiting=written.max_queue_size,
        timeout_us=int(written.default_timeout_microseconds),
        may_override=written.allow_timeout_override,
        linger=written.timeout_action == inference.ModelQueuePolicy.DELAY,
    )


def _refuse(config: inference.ModelConfig, name: str) -> None:
    for what, asked in REFUSED.items():
        if asked(config):
            raise BadModelError(f"model '{name}': config.pbtxt asks for {what}, which this server does not support.")
    if config.max_batch_size < 0:
        raise BadModelError(f"model '{name}': max_batch_size must be 0 or more; got {config.max_batch_size}.")
    _check_batching(config, name)
    unused = [field.name for field, _ in config.ListFields() if field.name in IGNORED]
    if unused:
        log.info("%s: %s in config.pbtxt has no effect here", name, ", ".join(unused))


def _check_batching(config: inference.ModelConfig, name: str) -> None:
    batching = config.dynamic_batching
    if any(not 1 <= size <= max(1, config.max_batch_size) for size in batching.preferred_batch_size):
        sizes = list(batching.preferred_batch_size)
        raise BadModelError(
            f"model '{name}': preferred_batch_size must lie between 1 and max_batch_size, "
            f"which is {config.max_batch_size}; got {sizes}."
        )
    if batching.priority_levels and not 1 <= batching.default_priority_level <= batching.priority_levels:
        raise BadModelError(
            f"model '{name}': default_priority_level must be one of the {batching.priority_levels} priority_levels; "
            f"got {batching.default_priority_level}."
        )
    if any(group.count < 0 for group in config.instance_group):
        raise BadModelError(f"model '{name}': an instance_group's count must be 1 or more.")


def _complete_inputs(config: inference.ModelConfig, graph: Sequence[TensorSpec]) -> None:
    if not config.input:
        config.input.extend(inference.ModelInput(name=each.name) for each in graph)
    missing = {each.name for each in graph} - {each.name for each in config.input}
    if missing:
        raise BadModelError(f"model '{config.name}': config.pbtxt lacks the graph's input '{min(missing)}'.")
    for entry in config.input:
        _complete_entry(config, entry, graph)


def _complete_outputs(config: inference.ModelConfig, graph: Sequence[TensorSpec]) -> None:
    if not config.output:
        config.output.extend(inference.ModelOutput(name=each.name) for each in graph)
    for entry in config.output:
        _complete_entry(config, entry, graph)


def _complete_entry(config: inference.ModelConfig, entry: Entry, graph: Sequence[TensorSpec]) -> None:
    """Fill in what `entry` leaves out, and compare the rest with the graph."""
    found = next((each for each in graph if each.name == entry.name), None)
    where = f"model '{config.name}', '{entry.name}'"
    if found is None:
        names = ", ".join(each.name for each in graph)
        raise BadModelError(f"{where}: config.pbtxt names it, but the graph does not have it; it has {names}.")
    datatype = datatypes.BY_NAME[found.datatype].config
    if entry.data_type not in (inference.TYPE_INVALID, datatype):
        written = inference.DataType.Name(entry.data_type)
        raise BadModelError(f"{where}: config.pbtxt says {written}, the graph {inference.DataType.Name(datatype)}.")
    entry.data_type = datatype
    if config.max_batch_size and found.shape and not _batches(found):  # no shape: a scalar, or any
        raise BadModelError(
            f"{where}: max_batch_size is {config.max_batch_size}, but the graph's shape is {list(found.shape)}: "
            f"set max_batch_size to 0, or export with a free first dimension."
        )
    dims = found.shape[1:] if config.max_batch_size else found.shape
    if not entry.dims:
        entry.dims.extend(dims)
    if min(entry.dims, default=0) < -1:
        raise BadModelError(f"{where}: config.pbtxt says dims {list(entry.dims)}: a size is 0 or more, or -1 for any.")
    if found.shape and not _fits(entry.dims, dims):
        raise BadModelError(f"{where}: config.pbtxt says dims {list(entry.dims)}, the graph {list(dims)}.")


def _share_a_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether a graph seems to take batches: all first sizes are free, and the inputs' are not of different names."""
    names = {each.first for each in inputs if each.first}
    return all(map(_batches, (*inputs, *outputs))) and len(names) <= 1


def _batches(spec: TensorSpec) -> bool:
    return spec.shape[:1] == (-1,)


def _fits(written: Sequence[int], graph: Sequence[int]) -> bool:
    return len(written) == len(graph) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(written, graph, strict=True)
    )


def _spec(entry: Entry, max_batch_size: int) -> TensorSpec:
    batch = (-1,) if max_batch_size else ()
    return TensorSpec(entry.name, datatypes.BY_CONFIG[entry.data_type].name, (*batch, *entry.dims))
