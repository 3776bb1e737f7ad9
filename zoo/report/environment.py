"""Where a run was computed, in words."""

import os
import platform
from importlib.metadata import version

import torch

from protos.version import VERSION

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "torchmetrics", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions by name."""
    return {"zoonnx": VERSION, "Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """A device by its make where that is known."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    if device.type != "cpu":
        return f"{device.type}, {platform.machine()}"
    return f"CPU, {platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {_threads()}"


def _threads() -> str:
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
