"""Training in several processes: each computes its shard of every batch, and all share one result.

In a single process a shard is the whole batch, and the other functions communicate nothing.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from zoo.evaluation.reduce import all_reduce_sum


def shard_indices(batch_size: int, process: int, processes: int) -> Tensor:
    """Return the positions within a batch that a process computes, int64 (shard size,).

    A shard is symmetric: with position i it contains batch_size - 1 - i, the partner that timm's Mixup mixes with i.
    """
    first = torch.tensor_split(torch.arange(batch_size // 2), processes)[process]
    middle = torch.tensor([batch_size // 2] if batch_size % 2 and process == processes - 1 else [], dtype=torch.int64)
    return torch.cat([first, middle, batch_size - 1 - first.flip(0)])


def all_reduce_any(accelerator: Accelerator, flag: bool) -> bool:
    """Return whether `flag` is true in any process."""
    return flag if accelerator.num_processes == 1 else bool(all_reduce_sum(accelerator, torch.tensor(int(flag))))


def broadcast_buffers(accelerator: Accelerator, module: nn.Module) -> None:
    """Copy the buffers of the main process to all others: each has its own BatchNorm statistics, from its shards."""
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            buffer.copy_(broadcast(buffer.detach().clone(), from_process=0))
