"""Random weights in which every branch counts.

Many nets begin with branches that give nothing yet: a last BatchNorm scale of 0 in each residual block, layer scales of
1e-6. That helps training; in a net that is looked at or compared without training it hides whole branches, and a
comparison of two zeros proves nothing.
"""

import torch
from torch import Tensor, nn

SLEEPING = 0.01  # a scale whose values all equal one number of at most this size


def wake(net: nn.Module) -> None:
    """Draw those scales of `net` anew, from 0.5 to 1.5, by torch's own generator."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not name.endswith("bias") and _sleeps(parameter.detach()):
                parameter.uniform_(0.5, 1.5)


def _sleeps(parameter: Tensor) -> bool:
    first = parameter.flatten()[0] if parameter.numel() > 1 else None
    return first is not None and abs(float(first)) <= SLEEPING and bool((parameter == first).all())
