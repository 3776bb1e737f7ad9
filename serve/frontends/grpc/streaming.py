"""Runs the requests of a stream concurrently and yields their responses in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

MAX_IN_FLIGHT = 64  # requests of one stream that run or wait for the client to read; reading pauses at this number


async def ordered_responses(
    requests: AsyncIterator[bytes], respond: Callable[[bytes], Awaitable[bytes]]
) -> AsyncGenerator[bytes, None]:
    """Yield one response for each request, in order; closing the generator early cancels the running requests."""
    started: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(MAX_IN_FLIGHT)
    tasks: set[asyncio.Future[bytes]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await slots.acquire()
                task = asyncio.ensure_future(respond(request))
                tasks.add(task)
                started.put_nowait(task)
        finally:
            started.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await started.get()) is not None:
            yield await task
            tasks.discard(task)
            slots.release()
    finally:
        reader.cancel()
        for task in tasks:
            task.cancel()
