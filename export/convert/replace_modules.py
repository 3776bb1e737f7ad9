"""Replaces modules of a network by equivalent ones that convert better.

Requires: a network in evaluation mode that may be changed.
Ensures: a module that the network holds under several names is replaced once, under all of them. Whether the
replacements are equivalent is verified by export/steps/verify_preparation.py.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.layers import FrozenBatchNormAct2d, unfreeze_batch_norm_2d
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops import FrozenBatchNorm2d

KNOWN_PACKAGES = ("timm.", "zoo.")
METHODS = ("fuse", "reparameterize", "switch_to_deploy")  # the first returns the replacement


def fix_parametrizations(network: nn.Module) -> nn.Module:
    """Replace weights that torch.nn.utils.parametrize computes in each forward by their values, which are constant."""
    for module in list(network.modules()):
        if is_parametrized(module):
            _fix_parametrizations(module)
    return network


def _fix_parametrizations(module: Any) -> None:
    """Change one module; PyTorch's own remove_parametrizations would change the class that it shares with a copy."""
    with torch.no_grad():
        values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    module.__class__ = type(module).__bases__[0]  # the class that the parametrisation derived its own from
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def thaw_batch_norms(network: nn.Module) -> nn.Module:
    """Replace frozen BatchNorms, which would become Mul and Add nodes, by ordinary ones."""
    return _replace(network, _thawed)


def reparameterize(network: nn.Module) -> nn.Module:
    """Replace blocks of several branches by one layer, for classes whose convention is known.

    timm's classes and those of zoo name the method that does it `fuse` (returns the equivalent module),
    `reparameterize` or `switch_to_deploy` (change the module in place). A method or attribute of the same name in any
    other class may mean something else, so that class is exported as it is; so is a block with hooks, with a forward of
    its own, or with a part of another class, and one in which a layer would keep its path and compute something else.
    """
    return _replace(network, _reparameterized, replace_root=False)


def _replace(
    network: nn.Module, replacement: Callable[[nn.Module], nn.Module], *, replace_root: bool = True
) -> nn.Module:
    """Replace each module by its `replacement`, which may be itself, then the modules inside that one."""
    replaced: dict[nn.Module, nn.Module] = {}

    def replace(module: nn.Module) -> nn.Module:
        if module not in replaced:
            replaced[module] = replacement(module) if replace_root or module is not network else module
            _replace_children(replaced[module])
        return replaced[module]

    def _replace_children(module: nn.Module) -> None:
        for name, child in module._modules.items():
            if child is not None:
                setattr(module, name, replace(child))

    return replace(network)


def _reparameterized(module: nn.Module) -> nn.Module:
    """Return what replaces a block of several branches; the block itself if a layer would remain and change."""
    method = next((method for method in METHODS if _is_known(module, method)), None)
    if method is None:
        return module
    merged = copy.deepcopy(module)
    result = getattr(merged, method)()
    replacement: nn.Module = result if method == "fuse" else merged
    return module if _has_changed_layer(module, replacement) else replacement


def _has_changed_layer(module: nn.Module, replacement: nn.Module) -> bool:
    """Return whether a layer of `module` has another class or other weights at the same path in `replacement`.

    Such a layer computes something else, although its path and so its name are those of the original: a convolution
    into which a norm was merged, or a norm that became an Identity. An Identity is the place of a layer to come.
    """
    remaining = dict(replacement.named_modules())
    return any(
        type(layer) is not type(remaining[path]) or not _have_equal_weights(layer, remaining[path])
        for path, layer in module.named_modules()
        if path and path in remaining and not isinstance(layer, nn.Identity)
    )


def _have_equal_weights(layer: nn.Module, other: nn.Module) -> bool:
    """Return whether two layers have the same parameters and buffers themselves, apart from those inside them."""
    weights, others = dict(_own_weights(layer)), dict(_own_weights(other))
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def _own_weights(layer: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from layer.named_parameters(recurse=False)
    yield from layer.named_buffers(recurse=False)


def _is_known(module: nn.Module, method: str) -> bool:
    """Return whether a known class defines `method`, and `module` is an instance of a known class itself."""
    owner = next((base for base in type(module).__mro__ if method in vars(base)), None)
    if owner is None or method in {*vars(module), *module._modules}:
        return False
    is_known = all(known.__module__.startswith(KNOWN_PACKAGES) for known in (type(module), owner))
    return is_known and all(map(_is_unchanged, module.modules()))


def _is_unchanged(module: nn.Module) -> bool:
    """Return whether a module computes what its class does, and its class is a known one, or PyTorch's."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    is_known = type(module).__module__.startswith((*KNOWN_PACKAGES, "torch.", "torchvision."))
    return is_known and not has_hooks and "forward" not in vars(module)


def _thawed(module: nn.Module) -> nn.Module:
    if type(module) is FrozenBatchNormAct2d and hasattr(module, "num_features") and _is_unchanged(module):
        thawed: nn.Module = unfreeze_batch_norm_2d(module)
        return thawed
    return _ordinary(module) if type(module) is FrozenBatchNorm2d and _is_unchanged(module) else module


def _ordinary(frozen: Any) -> nn.Module:
    """Return the BatchNorm with the constants of a FrozenBatchNorm2d."""
    ordinary = nn.BatchNorm2d(len(frozen.running_mean), eps=frozen.eps)
    ordinary.load_state_dict(frozen.state_dict(), strict=False)
    return ordinary.eval()
