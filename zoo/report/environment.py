"""Descriptions of the device and of the software versions."""

import os
import platform
from importlib.metadata import version

import torch

from protos.version import VERSION

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "torchmetrics", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the version of zoonnx, of Python and of each of PACKAGES, by name."""
    return {"zoonnx": VERSION, "Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """Return a description of a device, with its model for a GPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    if device.type != "cpu":
        return f"{device.type}, {platform.machine()}"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"CPU, {platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {threads}"
