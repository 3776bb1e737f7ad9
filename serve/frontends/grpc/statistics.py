"""Statistics as the protocol's messages."""

from protos import inference
from serve.batching.statistics import Compute, Duration
from serve.engine.model import Model


def statistics_message(model: Model) -> inference.ModelStatistics:
    """Write what one version of a model has done."""
    counted = model.statistics
    return inference.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=counted.last_inference_ms,
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=inference.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute.input),
            compute_infer=_duration(counted.compute.infer),
            compute_output=_duration(counted.compute.output),
            cache_hit=inference.StatisticDuration(),
            cache_miss=inference.StatisticDuration(),
        ),
        batch_stats=[_batch(size, compute) for size, compute in sorted(counted.batches.items())],
    )


def _batch(size: int, compute: Compute) -> inference.InferBatchStatistics:
    return inference.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(compute.input),
        compute_infer=_duration(compute.infer),
        compute_output=_duration(compute.output),
    )


def _duration(counted: Duration) -> inference.StatisticDuration:
    return inference.StatisticDuration(count=counted.count, ns=counted.ns)
