"""The engine: everything that a frontend needs to serve models, and that knows no transport."""

import time

from serve.engine.model_manager import ModelManager, OnReadyChange
from serve.engine.model_registry import ModelRegistry
from serve.engine.receiver import Receiver
from serve.settings import ServerSettings
from serve.shared_memory.regions import Regions


class Engine:
    """Models, and what receives and runs requests to them.

    Attributes:
        registry: The served models.
        manager: Loads and unloads models.
        regions: Shared memory that clients registered.
        receiver: Accepts inference requests.
    """

    def __init__(self, settings: ServerSettings, on_ready_change: OnReadyChange) -> None:
        self.registry = ModelRegistry()
        self.manager = ModelManager(self.registry, settings, on_ready_change)
        self.regions = Regions()
        self.receiver = Receiver(self.registry, self.regions)

    def close(self, timeout_s: float) -> bool:
        """Finish queued requests and end all threads; return False if that takes longer than `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        self.receiver.close()
        is_closed = self.registry.close(timeout_s)
        return self.manager.close(max(0.0, end_s - time.monotonic())) and is_closed
