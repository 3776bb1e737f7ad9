"""Completes a model's configuration from its graph, and rejects features that this server does not support."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from protos import inference
from protos.files import MODEL
from protos.keys import BACKEND
from serve.batching.queue import BatchSettings, QueuePolicy
from serve.errors import BadModelError
from serve.wire import datatypes
from serve.wire.tensors import TensorSpec

log = logging.getLogger(__name__)
PLATFORM = "onnxruntime_onnx"
MAX_INSTANCES = 256  # one thread each
Entry = inference.ModelInput | inference.ModelOutput

# Features of config.pbtxt that would change results, and that this server does not implement.
UNSUPPORTED: dict[str, Callable[[inference.ModelConfig], bool]] = {
    f"a backend other than {BACKEND}": lambda c: c.backend not in ("", BACKEND) or c.platform not in ("", PLATFORM),
    "ensemble_scheduling": lambda c: c.HasField("ensemble_scheduling"),
    "sequence_batching": lambda c: c.HasField("sequence_batching"),
    "a decoupled transaction policy": lambda c: c.model_transaction_policy.decoupled,
    "batch_input or batch_output": lambda c: bool(c.batch_input or c.batch_output),
    "reshape": lambda c: any(entry.HasField("reshape") for entry in (*c.input, *c.output)),
    "allow_ragged_batch": lambda c: any(entry.allow_ragged_batch for entry in c.input),
    "optional inputs": lambda c: any(entry.optional for entry in c.input),
    "a custom operator library": lambda c: bool(c.model_operations.op_library_filename),
}
IGNORED = ("optimization", "response_cache", "model_metrics")


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model.

    Attributes:
        inputs: The inputs, in the configuration's order.
        outputs: The outputs, in the configuration's order.
        max_batch_size: Largest batch; 0 if the model has no batch, and its shapes no batch dimension.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int

    @cached_property
    def output_names(self) -> frozenset[str]:
        """The names of the outputs."""
        return frozenset(spec.name for spec in self.outputs)


def is_bare(config: inference.ModelConfig | None) -> bool:
    """Return whether a model's config.pbtxt, None if there is none, does not say whether the model has a batch."""
    return config is None or not (config.input or config.output or config.max_batch_size)


def complete(
    written: inference.ModelConfig | None,
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    bare_max_batch_size: int = 0,
) -> inference.ModelConfig:
    """Return the complete configuration of a model whose graph has `inputs` and `outputs`.

    `written` is the model's config.pbtxt, which may be partial; None if there is none. `bare_max_batch_size` is the
    largest batch of a bare model, 0 if it has no batch dimension.

    Raises:
        BadModelError: The configuration contradicts the graph, or needs a feature that this server does not support.
    """
    config = inference.ModelConfig()
    if written:
        config.CopyFrom(written)
        _require_supported(config, name)
    if is_bare(written):
        config.max_batch_size = bare_max_batch_size
        if config.max_batch_size and not config.WhichOneof("scheduling_choice"):
            config.dynamic_batching.SetInParent()
    if config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size:
        config.dynamic_batching.preferred_batch_size.append(max(1, config.max_batch_size))
    config.name, config.backend, config.platform = name, BACKEND, PLATFORM
    config.default_model_filename = config.default_model_filename or MODEL
    if not config.version_policy.WhichOneof("policy_choice"):
        config.version_policy.latest.num_versions = 1
    _complete_inputs(config, inputs)
    _complete_outputs(config, outputs)
    return config


def signature(config: inference.ModelConfig) -> Signature:
    """Return the signature that a complete configuration declares, with the batch in the shapes."""
    return Signature(
        inputs=tuple(_spec(entry, config.max_batch_size) for entry in config.input),
        outputs=tuple(_spec(entry, config.max_batch_size) for entry in config.output),
        max_batch_size=config.max_batch_size,
    )


def batch_settings(config: inference.ModelConfig) -> BatchSettings:
    """Return the batching of requests; without `dynamic_batching`, each request is a batch of its own."""
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
    """Return the number of batches that run concurrently, one per instance; 0 if the configuration does not set it.

    A group without a count has one instance.

    Raises:
        BadModelError: The number is out of range.
    """
    count = sum(group.count or 1 for group in config.instance_group)
    if not 0 <= count <= MAX_INSTANCES:
        raise BadModelError(
            f"the instance_group of config.pbtxt sets {count} instances; a model has between 1 and {MAX_INSTANCES}."
        )
    return count


def preferred(config: inference.ModelConfig) -> Sequence[int]:
    """Return the preferred batch sizes of the configuration."""
    return tuple(config.dynamic_batching.preferred_batch_size)


def _policy(written: inference.ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=written.max_queue_size,
        timeout_us=int(written.default_timeout_microseconds),
        allow_override=written.allow_timeout_override,
        defer_on_timeout=written.timeout_action == inference.ModelQueuePolicy.DELAY,
    )


def _require_supported(config: inference.ModelConfig, name: str) -> None:
    for feature, is_used in UNSUPPORTED.items():
        if is_used(config):
            raise BadModelError(f"model '{name}': config.pbtxt uses {feature}, which this server does not support.")
    if config.max_batch_size < 0:
        raise BadModelError(f"model '{name}': max_batch_size must be 0 or more; got {config.max_batch_size}.")
    _check_batching(config, name)
    ignored = [field.name for field, _ in config.ListFields() if field.name in IGNORED]
    if ignored:
        log.info("%s: ignoring %s of config.pbtxt, which this server does not support", name, ", ".join(ignored))


def _check_batching(config: inference.ModelConfig, name: str) -> None:
    batching = config.dynamic_batching
    if any(not 1 <= size <= max(1, config.max_batch_size) for size in batching.preferred_batch_size):
        sizes = list(batching.preferred_batch_size)
        raise BadModelError(
            f"model '{name}': preferred_batch_size must be between 1 and max_batch_size, "
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
        config.input.extend(inference.ModelInput(name=spec.name) for spec in graph)
    missing = {spec.name for spec in graph} - {entry.name for entry in config.input}
    if missing:
        raise BadModelError(f"model '{config.name}': config.pbtxt lacks the graph's input '{min(missing)}'.")
    for entry in config.input:
        _complete_entry(config, entry, graph)


def _complete_outputs(config: inference.ModelConfig, graph: Sequence[TensorSpec]) -> None:
    if not config.output:
        config.output.extend(inference.ModelOutput(name=spec.name) for spec in graph)
    for entry in config.output:
        _complete_entry(config, entry, graph)


def _complete_entry(config: inference.ModelConfig, entry: Entry, graph: Sequence[TensorSpec]) -> None:
    """Fill in the missing fields of `entry`, and compare the others with the graph."""
    spec = next((spec for spec in graph if spec.name == entry.name), None)
    where = f"model '{config.name}', '{entry.name}'"
    if spec is None:
        names = ", ".join(spec.name for spec in graph)
        raise BadModelError(f"{where}: config.pbtxt lists it, but the graph has only {names}.")
    datatype = datatypes.BY_NAME[spec.datatype].config
    if entry.data_type not in (inference.TYPE_INVALID, datatype):
        written = inference.DataType.Name(entry.data_type)
        raise BadModelError(f"{where}: config.pbtxt has {written}, the graph {inference.DataType.Name(datatype)}.")
    entry.data_type = datatype
    if config.max_batch_size and spec.shape and not _has_dynamic_batch(spec):  # an empty shape is a scalar, or unknown
        raise BadModelError(
            f"{where}: max_batch_size is {config.max_batch_size}, but the graph's shape is {list(spec.shape)}: "
            f"set max_batch_size to 0, or export with a dynamic first dimension."
        )
    _complete_dims(config, entry, spec, where)


def _complete_dims(config: inference.ModelConfig, entry: Entry, spec: TensorSpec, where: str) -> None:
    dims = spec.shape[1:] if config.max_batch_size else spec.shape
    if not entry.dims:
        entry.dims.extend(dims)
    if min(entry.dims, default=0) < -1:
        raise BadModelError(
            f"{where}: config.pbtxt has dims {list(entry.dims)}: a size is 0 or more, or -1 for a dynamic one."
        )
    if spec.shape and not _dims_match(entry.dims, dims):
        raise BadModelError(f"{where}: config.pbtxt has dims {list(entry.dims)}, the graph {list(dims)}.")


def is_batched_graph(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Return whether a graph may have a batch: all first dimensions are dynamic, and the inputs' have one name."""
    names = {spec.batch_name for spec in inputs if spec.batch_name}
    return bool(inputs) and all(map(_has_dynamic_batch, (*inputs, *outputs))) and len(names) <= 1


def _has_dynamic_batch(spec: TensorSpec) -> bool:
    return spec.shape[:1] == (-1,)


def _dims_match(written: Sequence[int], graph: Sequence[int]) -> bool:
    return len(written) == len(graph) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(written, graph, strict=True)
    )


def _spec(entry: Entry, max_batch_size: int) -> TensorSpec:
    batch = (-1,) if max_batch_size else ()
    return TensorSpec(entry.name, datatypes.BY_CONFIG[entry.data_type].name, (*batch, *entry.dims))
