"""Random weights with which every branch and every channel contributes to the output.

Many networks initialise some scales so that a branch contributes nothing at first: the last BatchNorm scale of each
residual block to 0, layer scales to 1e-6. This helps training, but it hides whole branches when an untrained network is
inspected or compared numerically. The other BatchNorm scales start at 1, so that losing one in an export would go
unnoticed.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NEGLIGIBLE = 0.01  # largest constant value of a scale that is redrawn


def randomize_constant_scales(network: nn.Module) -> None:
    """Draw negligible scales and constant BatchNorm scales uniformly from 0.5 to 1.5, with torch's global generator."""
    norm_scales = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, _BatchNorm)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            limit = 1.0 if name in norm_scales else NEGLIGIBLE
            if not name.endswith("bias") and _is_constant(parameter, limit):
                parameter.uniform_(0.5, 1.5)


def _is_constant(parameter: Tensor, limit: float) -> bool:
    """Return whether a tensor has several elements, all equal and of magnitude at most `limit`."""
    if parameter.numel() <= 1:
        return False
    first = parameter.detach().flatten()[0]
    return abs(float(first)) <= limit and bool((parameter == first).all())
