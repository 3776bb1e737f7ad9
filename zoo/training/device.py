"""Where a run computes: its device, precision and processes."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from zoo.errors import DeviceError, SettingsError
from zoo.settings import TrainSettings
from zoo.training.trackers import check_tracker


def make_accelerator(settings: TrainSettings, run: Path) -> Accelerator:
    """Return an accelerator for the device, precision and tracker of `settings`; trackers write into `run`.

    Raises:
        DeviceError: The device does not exist on this machine.
        SettingsError: The device does not support the precision, or the tracker is not installed.
    """
    device = device_of(settings)
    check_tracker(settings.track)
    # All accelerators of a process share one state, the precision included; an earlier run may have set it.
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=settings.mixed_precision,
        log_with=None if settings.track == "none" else settings.track,
        project_dir=run,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.transfer is not None)],
    )
    if accelerator.device.type != device:
        raise DeviceError(f"the device should be '{device}', but accelerate chose '{accelerator.device.type}'")
    return accelerator


def device_of(settings: TrainSettings) -> str:
    """Return the device type; for `auto` the first available one of cuda, mps and cpu.

    Raises:
        DeviceError: The device does not exist on this machine.
        SettingsError: The device does not support the precision.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [name for name, is_available in available.items() if is_available]
    device = names[0] if settings.device == "auto" else settings.device
    if device not in names:
        choices = ", ".join(["auto", *sorted(names)])
        raise DeviceError(f"there is no device '{device}' on this machine; choose one of {choices}")
    if device == "cpu" and settings.mixed_precision == "fp16":
        raise SettingsError("mixed_precision fp16 needs a GPU; on a CPU choose bf16 or no")
    return device
