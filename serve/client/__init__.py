"""Clients for Open Inference Protocol servers: synchronous, asyncio, images, layer dumps and load tests."""

from serve.client.sync import Client

__all__ = ["Client"]
