"""Processes that train together: each has its part of every batch, and all of them one result.

With one process each function here gives back what it gets.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from zoo.evaluation.reduce import all_reduce_sum


def shard_indices(count: int, process: int, processes: int) -> Tensor:
    """Which of a batch's `count` places belong to a process, as int64 indices.

    For each place i it has the place count - 1 - i as well, so that images mixed in pairs find their partners.
    """
    first = torch.tensor_split(torch.arange(count // 2), processes)[process]
    middle = torch.tensor([count // 2] if count % 2 and process == processes - 1 else [], dtype=torch.int64)
    return torch.cat([first, middle, count - 1 - first.flip(0)])


def all_reduce_any(accelerator: Accelerator, here: bool) -> bool:
    """Whether it is so in any process."""
    return here if accelerator.num_processes == 1 else bool(all_reduce_sum(accelerator, torch.tensor(int(here))))


def broadcast_buffers(accelerator: Accelerator, network: nn.Module) -> None:
    """Give every process the main one's BatchNorm statistics; each has measured them on its own images."""
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            buffer.copy_(broadcast(buffer.detach().clone(), from_process=0))
