"""Random weights in which every branch and every channel counts.

Many networks begin with branches that give nothing yet: a last BatchNorm scale of 0 in each residual block, layer scales of
1e-6. That helps training; in a network that is looked at or compared without training it hides whole branches, and a
comparison of two zeros proves nothing. The other BatchNorms begin with scales of 1, with which a scale that goes astray
on the way to a file is not missed.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SLEEPING = 0.01  # a scale whose values all equal one number of at most this size


def randomize_constant_scales(network: nn.Module) -> None:
    """Draw those scales of `network` anew, and BatchNorm's of one number, from 0.5 to 1.5, by torch's own generator."""
    norms = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, _BatchNorm)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("bias") and _is_one_number(parameter, 1.0 if name in norms else SLEEPING):
                parameter.uniform_(0.5, 1.5)


def _is_one_number(parameter: Tensor, largest: float) -> bool:
    first = parameter.detach().flatten()[0] if parameter.numel() > 1 else None
    return first is not None and abs(float(first)) <= largest and bool((parameter == first).all())
