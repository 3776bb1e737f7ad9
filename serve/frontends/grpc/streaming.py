"""Answers the requests of a stream: all of them begun as they come, the answers in their order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

Answer = Callable[[bytes], Awaitable[bytes]]
DEPTH = 64  # requests of one stream that are begun and not yet answered; reading pauses there


async def ordered_responses(
    requests: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[bytes]]
) -> AsyncGenerator[bytes, None]:
    """Yield one answer a request; a stream that ends early cancels what it has begun."""
    begun: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue()
    room = asyncio.Semaphore(DEPTH)
    tasks: set[asyncio.Future[bytes]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.ensure_future(answer(request))
                tasks.add(task)
                begun.put_nowait(task)
        finally:
            begun.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
            tasks.discard(task)
            room.release()
    finally:
        reader.cancel()
        for each in tasks:
            each.cancel()
