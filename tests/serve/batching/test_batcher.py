"""Which requests share a batch, and when a batch starts."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from serve.batching.batcher import Batcher, stacked
from serve.batching.queue import BatchSettings
from serve.batching.statistics import Statistics

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Model:
    """Doubles its input; remembers its batches; computes only while `go` is set."""

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
    """Send requests in order, without waiting for their answers."""
    tasks = [asyncio.create_task(batcher.submit(x, len(x["x"]), layers)) for x, layers in requests]
    await asyncio.sleep(0.02)
    return tasks


NONE: frozenset[str] = frozenset()


class TestBatches:
    """What shares a batch."""

    async def busy(self, model: Model, batcher: Batcher[frozenset[str]]) -> "asyncio.Task[dict[str, Any]]":
        """Occupy the model with one request, so that the next ones wait in line."""
        model.go.clear()
        (first,) = await begin(batcher, (rows(0), NONE))
        assert model.batches == [(1, NONE)]
        return first

    def test_idle_model_answers_at_once(self) -> None:
        """Without a delay, a lone request is its own batch."""

        async def main() -> None:
            model = Model()
            async with batching(model) as batcher:
                np.testing.assert_array_equal((await batcher.submit(rows(3), 1, NONE))["y"], [[6, 6]])
            assert model.batches == [(1, NONE)]

        asyncio.run(main())

    def test_requests_that_wait_go_together(self) -> None:
        """While the model is busy requests gather, up to the largest batch, in order, and each gets its own rows."""

        async def main() -> None:
            model = Model()
            async with batching(model) as batcher:
                first = await self.busy(model, batcher)
                later = await begin(batcher, *[(rows(i), NONE) for i in range(1, 7)])
                model.go.set()
                answers = await asyncio.gather(first, *later)
            assert [size for size, _ in model.batches] == [1, 4, 2]
            assert [float(answer["y"][0, 0]) for answer in answers] == [0, 2, 4, 6, 8, 10, 12]

        asyncio.run(main())

    def test_a_request_that_does_not_fit_waits(self) -> None:
        """A batch is never larger than allowed, and no request overtakes another of its kind."""

        async def main() -> None:
            model = Model()
            async with batching(model) as batcher:
                await self.busy(model, batcher)
                later = await begin(batcher, (rows(1, 1), NONE), (rows(2, 2, 2), NONE), (rows(3), NONE))
                model.go.set()
                await asyncio.gather(*later)
            assert [size for size, _ in model.batches] == [1, 2, 4]

        asyncio.run(main())

    def test_only_like_requests_share(self) -> None:
        """Other shapes and other layers make other batches, in the order of the oldest."""

        async def main() -> None:
            model, tap = Model(), frozenset({"layer"})
            async with batching(model) as batcher:
                await self.busy(model, batcher)
                kinds = [(rows(1), NONE), (rows(2), tap), (rows(3, width=5), NONE), (rows(4), tap), (rows(5), NONE)]
                later = await begin(batcher, *kinds)
                model.go.set()
                answers = await asyncio.gather(*later)
            assert model.batches[1:] == [(2, NONE), (2, tap), (1, NONE)]
            assert [sorted(answer) for answer in answers] == [["y"], ["layer", "y"], ["y"], ["layer", "y"], ["y"]]
            assert float(answers[3]["layer"][0, 0]) == 5

        asyncio.run(main())

    def test_outputs_without_a_batch_are_not_shared_out(self) -> None:
        """When an output has not one row a request row, the requests run one by one."""

        async def main() -> None:
            model, tap = Model(), frozenset({"constant"})
            async with batching(model) as batcher:
                await self.busy(model, batcher)
                later = await begin(batcher, (rows(1), tap), (rows(2), tap))
                model.go.set()
                answers = await asyncio.gather(*later)
            assert [size for size, _ in model.batches] == [1, 2, 1, 1]
            assert [answer["constant"].shape for answer in answers] == [(4,), (4,)]
            assert float(answers[1]["y"][0, 0]) == 4

        asyncio.run(main())

    def test_alone_is_alone(self) -> None:
        """A request that must not share does not."""

        async def main() -> None:
            model = Model()
            async with batching(model) as batcher:
                await self.busy(model, batcher)
                later = [asyncio.create_task(batcher.submit(rows(i), 1, NONE, alone=True)) for i in (1, 2)]
                await asyncio.sleep(0.02)
                model.go.set()
                await asyncio.gather(*later)
            assert [size for size, _ in model.batches] == [1, 1, 1]

        asyncio.run(main())


class TestStacking:
    """What the model is given of several requests."""

    @pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, bool, object])
    def test_rows_are_stacked_as_numpy_does(self, dtype: Any) -> None:
        """Whatever lies in memory, also a view that jumps, is stacked by its values."""
        parts = [np.arange(24).reshape(2, 3, 4).astype(dtype), np.arange(48)[::2].reshape(2, 3, 4).astype(dtype)]
        parts.append(np.arange(24).reshape(2, 4, 3).astype(dtype).transpose(0, 2, 1)[:1])
        found = stacked(parts)
        np.testing.assert_array_equal(found, np.concatenate(parts))
        assert found.dtype == dtype

    def test_rows_of_nothing(self) -> None:
        """A size of 0 is a size."""
        assert stacked([np.zeros((1, 0, 3)), np.zeros((2, 0, 3))]).shape == (3, 0, 3)


class TestDelay:
    """A request may be made to wait for company."""

    def test_waits_for_company(self) -> None:
        """Requests that arrive within the delay share a batch though the model was idle."""

        async def main() -> None:
            model = Model()
            async with batching(model, max_delay_us=200_000) as batcher:
                await asyncio.gather(*await begin(batcher, (rows(1), NONE), (rows(2), NONE)))
            assert [size for size, _ in model.batches] == [2]

        asyncio.run(main())

    def test_full_batch_does_not_wait(self) -> None:
        """A batch that is full starts at once, however long the delay."""

        async def main() -> None:
            model = Model()
            async with batching(model, max_delay_us=60_000_000) as batcher:
                await asyncio.wait_for(asyncio.gather(*await begin(batcher, *[(rows(1), NONE)] * 4)), 5)
            assert [size for size, _ in model.batches] == [4]

        asyncio.run(main())

    def test_waits_no_longer_than_allowed(self) -> None:
        """A lone request is served when its delay is over."""

        async def main() -> None:
            async with batching(Model(), max_delay_us=50_000) as batcher:
                start = asyncio.get_running_loop().time()
                await batcher.submit(rows(1), 1, NONE)
                assert 0.045 <= asyncio.get_running_loop().time() - start < 5

        asyncio.run(main())


class TestTrouble:
    """Failures and clients that leave."""

    def test_failure_reaches_its_callers(self) -> None:
        """An error of the model is every caller's answer, and the next batch is served."""

        async def main() -> None:
            async with batching(Model()) as batcher:
                with pytest.raises(ValueError, match="negative"):
                    await batcher.submit(rows(-1), 1, NONE)
                assert float((await batcher.submit(rows(1), 1, NONE))["y"][0, 0]) == 2

        asyncio.run(main())

    def test_cancelled_requests_are_not_computed(self) -> None:
        """A client that left before its turn costs nothing."""

        async def main() -> None:
            model = Model()
            async with batching(model) as batcher:
                await TestBatches().busy(model, batcher)
                kept, left = await begin(batcher, (rows(1), NONE), (rows(2), NONE))
                left.cancel()
                await asyncio.sleep(0)
                model.go.set()
                assert float((await kept)["y"][0, 0]) == 2
            assert [size for size, _ in model.batches] == [1, 1]

        asyncio.run(main())

    def test_a_cancelled_request_counts_once(self) -> None:
        """Whether it is in line or in the model when its client leaves, it is one success or one failure."""

        async def main() -> Statistics:
            model, statistics = Model(), Statistics()
            batcher = Batcher(model.run, BatchSettings(4), statistics)
            running = await TestBatches().busy(model, batcher)
            (waiting,) = await begin(batcher, (rows(1), NONE))
            running.cancel()
            waiting.cancel()
            await asyncio.sleep(0.02)
            model.go.set()
            await batcher.close()
            return statistics

        statistics = asyncio.run(main())
        assert (statistics.success.count, statistics.fail.count) == (1, 1)

    def test_close_answers_what_waits(self) -> None:
        """Stopping does not lose a request that is in line or in the model."""

        async def main() -> None:
            model = Model()
            batcher = Batcher(model.run, BatchSettings(4), Statistics())
            first = await TestBatches().busy(model, batcher)
            (second,) = await begin(batcher, (rows(1), NONE))
            closing = asyncio.create_task(batcher.close())
            await asyncio.sleep(0.02)
            model.go.set()
            await closing
            assert (first.done(), float(second.result()["y"][0, 0])) == (True, 2)

        asyncio.run(main())
