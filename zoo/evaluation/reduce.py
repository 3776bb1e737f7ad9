"""Sums over the processes of a distributed run."""

from accelerate import Accelerator
from torch import Tensor


def all_reduce_sum(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes, on the CPU."""
    if accelerator.num_processes > 1:
        value = accelerator.reduce(value.to(accelerator.device), reduction="sum")
    return value.cpu()
