"""A connected client with a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.client.sync import Client

CONNECT_TIMEOUT_S = 5.0  # long enough for a server that a script has just started


@contextmanager
def client_with_progress(url: str, model: str, images: int) -> "Iterator[tuple[Client, Callable[[int], None]]]":
    """Connect to a server, and show progress on a terminal; yield the client and a function that counts images.

    Raises:
        UnreachableError: No server accepts the connection within CONNECT_TIMEOUT_S.
    """
    from rich.console import Console
    from rich.progress import Progress

    from serve.client.sync import Client

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress, Client(url) as client:
        client.wait_connected(CONNECT_TIMEOUT_S)
        task = progress.add_task(model, total=images)
        yield client, lambda count: progress.advance(task, count)


def counted(number: int, noun: str) -> str:
    """Return '1 image' or '2 images'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
