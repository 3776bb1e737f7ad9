"""Hub downloads that fail fast without a network."""

import contextlib
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import huggingface_hub.constants

NETWORK_TIMEOUT_S = 20.0
REACH_TIMEOUT_S = 3.0
PORTS = {"http": 80, "https": 443}


@contextlib.contextmanager
def offline_fallback() -> Iterator[None]:
    """Use only the Hugging Face cache inside the block if the hub cannot be reached, instead of retrying.

    Other downloads inside the block get a timeout of NETWORK_TIMEOUT_S; torch's have none of their own.
    """
    timeout, offline = socket.getdefaulttimeout(), huggingface_hub.constants.HF_HUB_OFFLINE
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    huggingface_hub.constants.HF_HUB_OFFLINE = offline or not _is_reachable(huggingface_hub.constants.ENDPOINT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        huggingface_hub.constants.HF_HUB_OFFLINE = offline


def _is_reachable(endpoint: str) -> bool:
    if urllib.request.getproxies():
        return True  # a direct connection would not show what the proxy can reach
    url = urlsplit(endpoint)
    try:
        with socket.create_connection((url.hostname, url.port or PORTS[url.scheme]), timeout=REACH_TIMEOUT_S):
            return True
    except OSError:
        return False
