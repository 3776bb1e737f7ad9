"""Tests of the batcher: which requests share a batch, and when a batch runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from serve.batching.batcher import Batcher, stack_rows
from serve.batching.queue import BatchSettings
from serve.batching.statistics import Statistics

pytestmark = pytest.mark.anyio
Arrays = Mapping[str, np.ndarray[Any, Any]]


class Model:
    """A model that doubles its input and records its batches; it blocks while `go` is cleared."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, frozenset[str]]] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, inputs: Arrays, layers: frozenset[str]) -> Arrays:
        self.batches.append((len(inputs["x"]), layers))
        assert self.go.wait(10)
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        outputs = {"y": inputs["x"] * 2}
        return {**outputs, **{layer: self.layer(layer, inputs["x"]) for layer in layers}}

    def layer(self, name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.arange(4.0) if name == "constant" else x + 1


def rows(*values: float, width: int = 2) -> Arrays:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


@asynccontextmanager
async def batching(model: Model, max_rows: int = 4, max_delay_us: int = 0) -> AsyncIterator[Batcher[frozenset[str]]]:
    batcher = Batcher(model.run, BatchSettings(max_rows, max_delay_us), Statistics())
    try:
        yield batcher
    finally:
        model.go.set()
        await batcher.close()


async def begin(
    batcher: Batcher[frozenset[str]], *requests: tuple[Arrays, frozenset[str]]
) -> "list[asyncio.Task[dict[str, Any]]]":
    """Submit requests in order, without waiting for their outputs."""
    tasks = [asyncio.create_task(batcher.submit(x, len(x["x"]), layers)) for x, layers in requests]
    await asyncio.sleep(0.02)
    return tasks


NONE: frozenset[str] = frozenset()


async def occupy(model: Model, batcher: Batcher[frozenset[str]]) -> "asyncio.Task[dict[str, Any]]":
    """Occupy the model with one request, so that the next ones wait in the queue."""
    model.go.clear()
    (first,) = await begin(batcher, (rows(0), NONE))
    assert model.batches == [(1, NONE)]
    return first


class TestBatches:
    """Requests that share a batch."""

    async def test_idle_model_runs_at_once(self) -> None:
        """Without a delay, a single request is a batch of its own."""
        model = Model()
        async with batching(model) as batcher:
            np.testing.assert_array_equal((await batcher.submit(rows(3), 1, NONE))["y"], [[6, 6]])
        assert model.batches == [(1, NONE)]

    async def test_queued_requests_share_a_batch(self) -> None:
        """Requests queued behind a busy model run in order, in batches up to the maximum; each gets its own rows."""
        model = Model()
        async with batching(model) as batcher:
            first = await occupy(model, batcher)
            queued = await begin(batcher, *[(rows(i), NONE) for i in range(1, 7)])
            model.go.set()
            results = await asyncio.gather(first, *queued)
        assert [size for size, _ in model.batches] == [1, 4, 2]
        assert [float(outputs["y"][0, 0]) for outputs in results] == [0, 2, 4, 6, 8, 10, 12]

    async def test_a_request_that_does_not_fit_waits(self) -> None:
        """No batch exceeds the maximum, and no request overtakes another in its queue."""
        model = Model()
        async with batching(model) as batcher:
            await occupy(model, batcher)
            queued = await begin(batcher, (rows(1, 1), NONE), (rows(2, 2, 2), NONE), (rows(3), NONE))
            model.go.set()
            await asyncio.gather(*queued)
        assert [size for size, _ in model.batches] == [1, 2, 4]

    async def test_only_matching_requests_share(self) -> None:
        """Requests with other shapes or other layers run in other batches, in the order of their first requests."""
        model, layer = Model(), frozenset({"layer"})
        async with batching(model) as batcher:
            await occupy(model, batcher)
            requests = [(rows(1), NONE), (rows(2), layer), (rows(3, width=5), NONE), (rows(4), layer), (rows(5), NONE)]
            queued = await begin(batcher, *requests)
            model.go.set()
            results = await asyncio.gather(*queued)
        assert model.batches[1:] == [(2, NONE), (2, layer), (1, NONE)]
        assert [sorted(outputs) for outputs in results] == [["y"], ["layer", "y"], ["y"], ["layer", "y"], ["y"]]
        assert float(results[3]["layer"][0, 0]) == 5

    async def test_outputs_without_a_batch_are_not_split(self) -> None:
        """When an output does not have one row for each input row, the requests run one by one."""
        model, constant = Model(), frozenset({"constant"})
        async with batching(model) as batcher:
            await occupy(model, batcher)
            queued = await begin(batcher, (rows(1), constant), (rows(2), constant))
            model.go.set()
            results = await asyncio.gather(*queued)
        assert [size for size, _ in model.batches] == [1, 2, 1, 1]
        assert [outputs["constant"].shape for outputs in results] == [(4,), (4,)]
        assert float(results[1]["y"][0, 0]) == 4

    async def test_alone_shares_no_batch(self) -> None:
        """A request that must run alone shares its batch with no other."""
        model = Model()
        async with batching(model) as batcher:
            await occupy(model, batcher)
            queued = [asyncio.create_task(batcher.submit(rows(i), 1, NONE, alone=True)) for i in (1, 2)]
            await asyncio.sleep(0.02)
            model.go.set()
            await asyncio.gather(*queued)
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


class TestDelay:
    """Requests that wait for others to share a batch."""

    async def test_waits_for_other_requests(self) -> None:
        """Requests that arrive within the delay share a batch, although the model is idle."""
        model = Model()
        async with batching(model, max_delay_us=200_000) as batcher:
            await asyncio.gather(*await begin(batcher, (rows(1), NONE), (rows(2), NONE)))
        assert [size for size, _ in model.batches] == [2]

    async def test_full_batch_does_not_wait(self) -> None:
        """A full batch runs at once, however long the delay."""
        model = Model()
        async with batching(model, max_delay_us=60_000_000) as batcher:
            await asyncio.wait_for(asyncio.gather(*await begin(batcher, *[(rows(1), NONE)] * 4)), 5)
        assert [size for size, _ in model.batches] == [4]

    async def test_waits_no_longer_than_the_delay(self) -> None:
        """A single request runs when its delay is over."""
        async with batching(Model(), max_delay_us=50_000) as batcher:
            start = asyncio.get_running_loop().time()
            await batcher.submit(rows(1), 1, NONE)
            assert 0.045 <= asyncio.get_running_loop().time() - start < 5


class TestFailures:
    """Model errors and cancelled requests."""

    async def test_error_reaches_its_callers(self) -> None:
        """An error of the model is raised to the callers of its batch, and the next batch runs."""
        async with batching(Model()) as batcher:
            with pytest.raises(ValueError, match="negative"):
                await batcher.submit(rows(-1), 1, NONE)
            assert float((await batcher.submit(rows(1), 1, NONE))["y"][0, 0]) == 2

    async def test_cancelled_requests_are_not_computed(self) -> None:
        """A request that is cancelled in the queue is never computed."""
        model = Model()
        async with batching(model) as batcher:
            await occupy(model, batcher)
            waiting, cancelled = await begin(batcher, (rows(1), NONE), (rows(2), NONE))
            cancelled.cancel()
            await asyncio.sleep(0)
            model.go.set()
            assert float((await waiting)["y"][0, 0]) == 2
        assert [size for size, _ in model.batches] == [1, 1]

    async def test_a_cancelled_request_counts_once(self) -> None:
        """A request cancelled while it runs counts as one success, and one cancelled in the queue as one failure."""
        model, statistics = Model(), Statistics()
        batcher = Batcher(model.run, BatchSettings(4), statistics)
        running = await occupy(model, batcher)
        (waiting,) = await begin(batcher, (rows(1), NONE))
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(0.02)
        model.go.set()
        await batcher.close()
        assert (statistics.success.count, statistics.fail.count) == (1, 1)

    async def test_close_finishes_queued_requests(self) -> None:
        """Closing finishes the running request and the queued ones."""
        model = Model()
        batcher = Batcher(model.run, BatchSettings(4), Statistics())
        first = await occupy(model, batcher)
        (second,) = await begin(batcher, (rows(1), NONE))
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.02)
        model.go.set()
        await closing
        assert (first.done(), float(second.result()["y"][0, 0])) == (True, 2)
