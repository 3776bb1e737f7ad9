"""Clients for Open Inference Protocol servers: synchronous, asyncio, images, layer dumps and load tests.

`Client` and `AsyncClient` are the public classes; `AsyncClient` is imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from serve.client.sync import Client

if TYPE_CHECKING:
    from serve.client.aio import AsyncClient

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        from serve.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
