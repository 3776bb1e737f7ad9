"""Tests of the batcher: which requests share a batch, and when a batch runs."""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from serve.batching.batcher import Batcher, stack_rows
from serve.batching.queue import NEVER_INLINE_NS, BatchSettings, QueuedRequest, RequestQueue
from serve.batching.statistics import Statistics

Arrays = Mapping[str, np.ndarray[Any, Any]]
Plan = frozenset[str]
NONE: Plan = frozenset()
TIMEOUT_S = 10


class Model:
    """A model that doubles its input and records its batches and threads; it blocks while `go` is cleared."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, Plan]] = []
        self.threads: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, inputs: Arrays, layers: Plan) -> Arrays:
        self.batches.append((len(inputs["x"]), layers))
        self.threads.append(threading.current_thread().name)
        assert self.go.wait(TIMEOUT_S)
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        outputs = {"y": inputs["x"] * 2}
        return {**outputs, **{layer: self.layer(layer, inputs["x"]) for layer in layers}}

    def layer(self, name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.arange(4.0) if name == "constant" else x + 1


class Pending:
    """A submitted request, and the reply that receives its result."""

    def __init__(self, inputs: Arrays) -> None:
        self._future: Future[Arrays] = Future()
        self.request = QueuedRequest(inputs, len(inputs["x"]), self)

    def succeed(self, outputs: Arrays) -> None:
        self._future.set_result(outputs)

    def fail(self, error: Exception) -> None:
        self._future.set_exception(error)

    @property
    def done(self) -> bool:
        return self._future.done()

    def outputs(self) -> Arrays:
        """Wait for the outputs. Raises: the error that the reply received."""
        return self._future.result(TIMEOUT_S)

    def value(self) -> float:
        """Wait for the outputs, and return the first element of `y`."""
        return float(self.outputs()["y"][0, 0])


def rows(*values: float, width: int = 2) -> Arrays:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


def submit(
    batcher: Batcher[Plan], inputs: Arrays, plan: Plan = NONE, *, alone: bool = False, **options: Any
) -> Pending:
    """Queue one request, and run what is due."""
    pending = Pending(inputs)
    assert batcher.add(batcher.queue(inputs, plan, alone=alone), pending.request, **options)
    batcher.run_due()
    return pending


@contextmanager
def batching(model: Model, max_rows: int = 4, max_delay_us: int = 0, **settings: Any) -> Iterator[Batcher[Plan]]:
    batcher = Batcher(model.run, BatchSettings(max_rows, max_delay_us, **settings), Statistics(), "test")
    try:
        yield batcher
    finally:
        model.go.set()
        assert batcher.close(TIMEOUT_S)


def occupy(model: Model, batcher: Batcher[Plan]) -> Pending:
    """Occupy the model with one request, so that the next ones wait in the queue."""
    model.go.clear()
    first = submit(batcher, rows(0))
    wait_for(lambda: len(model.batches) == 1)
    return first


def wait_for(condition: Any) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


class TestBatches:
    """Requests that share a batch."""

    def test_idle_model_runs_at_once(self) -> None:
        """Without a delay, a single request is a batch of its own."""
        model = Model()
        with batching(model) as batcher:
            np.testing.assert_array_equal(submit(batcher, rows(3)).outputs()["y"], [[6, 6]])
        assert model.batches == [(1, NONE)]

    def test_queued_requests_share_a_batch(self) -> None:
        """Requests queued behind a busy model run in order, in batches up to the maximum; each gets its own rows."""
        model = Model()
        with batching(model) as batcher:
            first = occupy(model, batcher)
            queued = [submit(batcher, rows(i)) for i in range(1, 7)]
            model.go.set()
            results = [pending.value() for pending in (first, *queued)]
        assert [size for size, _ in model.batches] == [1, 4, 2]
        assert results == [0, 2, 4, 6, 8, 10, 12]

    def test_a_request_that_does_not_fit_waits(self) -> None:
        """No batch exceeds the maximum, and no request overtakes another in its queue."""
        model = Model()
        with batching(model) as batcher:
            occupy(model, batcher)
            queued = [submit(batcher, inputs) for inputs in (rows(1, 1), rows(2, 2, 2), rows(3))]
            model.go.set()
            _ = [pending.outputs() for pending in queued]
        assert [size for size, _ in model.batches] == [1, 2, 4]

    def test_only_matching_requests_share(self) -> None:
        """Requests with other shapes or other layers run in other batches, in the order of their first requests."""
        model, layer = Model(), frozenset({"layer"})
        with batching(model) as batcher:
            occupy(model, batcher)
            requests = [(rows(1), NONE), (rows(2), layer), (rows(3, width=5), NONE), (rows(4), layer), (rows(5), NONE)]
            queued = [submit(batcher, *request) for request in requests]
            model.go.set()
            results = [pending.outputs() for pending in queued]
        assert model.batches[1:] == [(2, NONE), (2, layer), (1, NONE)]
        assert [sorted(outputs) for outputs in results] == [["y"], ["layer", "y"], ["y"], ["layer", "y"], ["y"]]
        assert float(results[3]["layer"][0, 0]) == 5

    def test_outputs_without_a_batch_are_not_split(self) -> None:
        """When an output does not have one row for each input row, the requests run one by one."""
        model, constant = Model(), frozenset({"constant"})
        with batching(model) as batcher:
            occupy(model, batcher)
            queued = [submit(batcher, rows(value), constant) for value in (1, 2)]
            model.go.set()
            results = [pending.outputs() for pending in queued]
        assert [size for size, _ in model.batches] == [1, 2, 1, 1]
        assert [outputs["constant"].shape for outputs in results] == [(4,), (4,)]
        assert float(results[1]["y"][0, 0]) == 4

    def test_alone_shares_no_batch(self) -> None:
        """A request that must run alone shares its batch with no other."""
        model = Model()
        with batching(model) as batcher:
            occupy(model, batcher)
            queued = [submit(batcher, rows(value), alone=True) for value in (1, 2)]
            model.go.set()
            _ = [pending.outputs() for pending in queued]
        assert [size for size, _ in model.batches] == [1, 1, 1]


class TestStacking:
    """Stacking the inputs of several requests."""

    @pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, bool, object])
    def test_rows_are_stacked_as_numpy_does(self, dtype: Any) -> None:
        """Arrays of any memory layout, strided views included, are stacked as np.concatenate does."""
        parts = [np.arange(24).reshape(2, 3, 4).astype(dtype), np.arange(48)[::2].reshape(2, 3, 4).astype(dtype)]
        parts.append(np.arange(24).reshape(2, 4, 3).astype(dtype).transpose(0, 2, 1)[:1])
        actual = stack_rows(parts)
        np.testing.assert_array_equal(actual, np.concatenate(parts))
        assert actual.dtype == dtype

    def test_rows_of_size_zero(self) -> None:
        """Arrays with a dimension of size 0 are stacked too."""
        assert stack_rows([np.zeros((1, 0, 3)), np.zeros((2, 0, 3))]).shape == (3, 0, 3)


def test_a_lone_request_is_aligned() -> None:
    """A view of a message at an odd position reaches the model aligned; an aligned one is not copied."""
    odd = np.frombuffer(bytes(13), np.float32, 3, 1)
    even = np.zeros(3, np.float32)
    seen: list[np.ndarray[Any, Any]] = []

    def run(inputs: Arrays, _: Plan) -> Arrays:
        seen.append(inputs["x"])
        return {"y": inputs["x"]}

    batcher = Batcher(run, BatchSettings(1), Statistics())
    for x in (odd, even):
        submit(batcher, {"x": x}).outputs()
    assert batcher.close(TIMEOUT_S)
    assert not odd.flags.aligned
    assert seen[0].flags.aligned
    assert seen[1] is even


class TestDelay:
    """Requests that wait for others to share a batch."""

    def test_waits_for_other_requests(self) -> None:
        """Requests that arrive within the delay share a batch, although the model is idle."""
        model = Model()
        with batching(model, max_delay_us=200_000) as batcher:
            _ = [pending.outputs() for pending in (submit(batcher, rows(1)), submit(batcher, rows(2)))]
        assert [size for size, _ in model.batches] == [2]

    def test_full_batch_does_not_wait(self) -> None:
        """A full batch runs at once, however long the delay."""
        model = Model()
        with batching(model, max_delay_us=60_000_000) as batcher:
            _ = [pending.outputs() for pending in [submit(batcher, rows(1)) for _ in range(4)]]
        assert [size for size, _ in model.batches] == [4]

    def test_waits_no_longer_than_the_delay(self) -> None:
        """A single request runs when its delay is over."""
        with batching(Model(), max_delay_us=50_000) as batcher:
            start_s = time.monotonic()
            submit(batcher, rows(1)).outputs()
            assert 0.045 <= time.monotonic() - start_s < 5


class TestFailures:
    """Model errors and cancelled requests."""

    def test_error_reaches_its_callers(self) -> None:
        """An error of the model is the result of its batch, and the next batch runs."""
        with batching(Model()) as batcher:
            with pytest.raises(ValueError, match="negative"):
                submit(batcher, rows(-1)).outputs()
            assert submit(batcher, rows(1)).value() == 2

    def test_cancelled_requests_are_not_computed(self) -> None:
        """A request that is cancelled in the queue is never computed."""
        model = Model()
        with batching(model) as batcher:
            occupy(model, batcher)
            waiting, cancelled = submit(batcher, rows(1)), submit(batcher, rows(2))
            batcher.cancel(cancelled.request)
            model.go.set()
            assert waiting.value() == 2
        assert [size for size, _ in model.batches] == [1, 1]
        assert not cancelled.done

    def test_a_cancelled_request_counts_once(self) -> None:
        """A request cancelled while it runs counts as one success, and one cancelled in the queue as one failure."""
        model, statistics = Model(), Statistics()
        batcher = Batcher(model.run, BatchSettings(4), statistics)
        running = occupy(model, batcher)
        waiting = submit(batcher, rows(1))
        for pending in (running, waiting, waiting):
            batcher.cancel(pending.request)
        model.go.set()
        assert batcher.close(TIMEOUT_S)
        assert (statistics.success.count, statistics.fail.count) == (1, 1)

    def test_close_finishes_queued_requests(self) -> None:
        """Closing finishes the running request and the queued ones, and no request is accepted any more."""
        model = Model()
        batcher = Batcher(model.run, BatchSettings(4), Statistics())
        first, second = occupy(model, batcher), submit(batcher, rows(1))
        assert not batcher.close(0.02)
        assert not batcher.add(batcher.queue(rows(2), NONE), Pending(rows(2)).request)
        model.go.set()
        assert batcher.close(TIMEOUT_S)
        assert (first.value(), second.value()) == (0, 2)


class TestInline:
    """Batches that the thread which adds the requests runs itself."""

    LIMIT_NS = NEVER_INLINE_NS - 1

    def test_cheap_batches_run_in_the_caller(self) -> None:
        """Once a run was measured and is cheap, requests that were added together run as one batch in the caller."""
        model, here = Model(), threading.current_thread().name
        with batching(model, inline_limit_ns=self.LIMIT_NS) as batcher:
            queue = batcher.queue(rows(1), NONE)  # keeps the measurement
            submit(batcher, rows(1)).outputs()
            requests = [Pending(rows(value)) for value in (1, 2, 3)]
            added = [batcher.add(queue, pending.request) for pending in requests]
            assert added == [True, True, True]
            batcher.run_due()
            assert [pending.value() for pending in requests if pending.done] == [2, 4, 6]
        assert model.batches == [(1, NONE), (3, NONE)]
        assert model.threads == ["test#0", here]

    def test_expensive_batches_do_not(self) -> None:
        """A batch whose estimated time is over the limit runs in a worker thread."""
        model = Model()
        with batching(model, inline_limit_ns=self.LIMIT_NS) as batcher:
            queue = batcher.queue(rows(1), NONE)
            queue.measured(1, self.LIMIT_NS + 1)
            assert submit(batcher, rows(1)).value() == 2
        assert model.threads == ["test#0"]

    def test_busy_workers_do_not_matter(self) -> None:
        """A cheap request runs in the caller even while a worker is busy; otherwise the worker would get all others."""
        model = Model()
        with batching(model, inline_limit_ns=self.LIMIT_NS) as batcher:
            queue = batcher.queue(rows(1), NONE)
            slow = batcher.queue(rows(1), frozenset({"layer"}))
            model.go.clear()
            first = submit(batcher, rows(0), slow.plan)
            wait_for(lambda: len(model.batches) == 1)
            queue.measured(1, 1)
            caller = threading.Thread(target=submit, args=(batcher, rows(1)), name="caller")
            caller.start()
            wait_for(lambda: len(model.batches) == 2)
            model.go.set()
            caller.join()
            assert first.value() == 0
        assert model.threads == ["test#0", "caller"]

    def test_estimates(self) -> None:
        """Estimates rise at once, fall slowly, and grow with the batch; larger batches say nothing of smaller ones."""
        queue, settings = RequestQueue(NONE), BatchSettings(4)
        request = [Pending(rows(value)).request for value in (1, 2)]
        queue.add(request[0])
        queue.measured(2, 500)
        assert queue.cost_ns(settings) is None
        for ns in (1000, 100_000, 1000):
            queue.measured(1, ns)
        assert queue.cost_ns(settings) == 90_000
        queue.add(request[1])
        assert queue.cost_ns(settings) == 500
        queue.measured(2, 0)
        assert queue.cost_ns(settings) == 450

    def test_unpredictable_models_never_run_inline(self) -> None:
        """After one very expensive run no number of cheap ones makes a queue cheap again."""
        queue = RequestQueue(NONE)
        queue.add(Pending(rows(1)).request)
        for ns in (NEVER_INLINE_NS + 1, *[1] * 500):
            queue.measured(1, ns)
        assert queue.cost_ns(BatchSettings(4)) is None


class TestAhead:
    """Batches that are taken while others run, so that a device need not wait for them to be stacked."""

    def test_only_full_batches_are_taken_ahead(self) -> None:
        """While a batch runs, a second one leaves the queue if it is full, and runs after the first."""
        model = Model()
        with batching(model, ahead=1) as batcher:
            first = occupy(model, batcher)
            partial = submit(batcher, rows(1))
            time.sleep(0.02)
            assert batcher.queue_length == 1
            rest = [submit(batcher, rows(value)) for value in (2, 3, 4)]
            wait_for(lambda: batcher.queue_length == 0)
            assert model.batches == [(1, NONE)]  # the device runs one batch at a time
            model.go.set()
            assert [pending.value() for pending in (first, partial, *rest)] == [0, 2, 4, 6, 8]
        assert model.batches == [(1, NONE), (4, NONE)]
