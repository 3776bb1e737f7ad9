"""Converts a model's statistics to the protocol's messages."""

from protos import inference
from serve.batching.statistics import Compute, Duration
from serve.engine.model import Model


def statistics_message(model: Model) -> inference.ModelStatistics:
    """Return the statistics of one version of a model as a message."""
    statistics = model.statistics
    return inference.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.inferences,
        execution_count=statistics.executions,
        inference_stats=inference.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.fail),
            queue=_duration(statistics.queue),
            compute_input=_duration(statistics.compute.input),
            compute_infer=_duration(statistics.compute.infer),
            compute_output=_duration(statistics.compute.output),
            cache_hit=inference.StatisticDuration(),
            cache_miss=inference.StatisticDuration(),
        ),
        batch_stats=[_batch(size, compute) for size, compute in sorted(statistics.batches.items())],
    )


def _batch(size: int, compute: Compute) -> inference.InferBatchStatistics:
    return inference.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(compute.input),
        compute_infer=_duration(compute.infer),
        compute_output=_duration(compute.output),
    )


def _duration(duration: Duration) -> inference.StatisticDuration:
    return inference.StatisticDuration(count=duration.count, ns=duration.ns)
