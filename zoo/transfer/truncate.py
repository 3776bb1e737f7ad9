"""Backbones that end early, at a layer before those that know too much of the task they were trained on.

What comes after that layer becomes `Removed`, an Identity, so that every other layer keeps its path,
and its weights their names.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError, did_you_mean
from zoo.layers import Removed
from zoo.networks.preprocessing import Preprocessing


def cut_after(network: nn.Module, layer: str) -> None:
    """Let the features of `network` be what its module `layer` gives.

    Raises:
        SettingsError: there is no such layer, or the network does more with what it gives than to hand it on.
    """
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        raise SettingsError(f"{type(network).__name__} has no layer '{layer}' to cut after{did_you_mean(layer, names)}")
    was_training = network.training
    network.eval()
    wanted, later = _watch(network, layer)
    for path in _outermost_after(layer, later):
        network.set_submodule(path, Removed())
    _check_hands_on(network, layer, wanted)
    network.train(was_training)


def _watch(network: nn.Module, layer: str) -> tuple[Tensor, set[str]]:
    """What the layer gives, and the modules that are called after it on the way to the features."""
    watched, found, later = copy.deepcopy(network), [], set[str]()

    def done(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(output.clone() if isinstance(output, Tensor) else output)

    watched.get_submodule(layer).register_forward_hook(done)
    for name, module in watched.named_modules():
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: later.add(name) if found else None)
    _features(watched, _sample(network))
    if len(found) != 1 or not isinstance(found[0], Tensor):
        what = "gives no tensor" if found else "takes no part in the features"
        raise SettingsError(f"{type(network).__name__} cannot be cut after '{layer}', which {what} or is called twice")
    return found[0], later


def _outermost_after(layer: str, later: set[str]) -> list[str]:
    """Of the later modules, those that stand in no later one."""
    return sorted(name for name in later if name and not any(name.startswith(f"{other}.") for other in later))


def _check_hands_on(network: nn.Module, layer: str, wanted: Tensor) -> None:
    misfit = SettingsError(
        f"{type(network).__name__} cannot be cut after '{layer}': it does more with it than its layers do; "
        "choose the end of a stage"
    )
    try:
        got = _features(network, _sample(network))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise misfit from error
    if got.shape != wanted.shape or not (got.is_meta or torch.equal(got, wanted)):
        raise misfit


def _features(network: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = network.forward_features(x)
    return features


def _sample(network: nn.Module) -> Tensor:
    """The same random image each time, of the network's own size."""
    size = Preprocessing.from_net(network).input_size
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.rand(1, *size, generator=generator, device="cpu").to(next(network.parameters()).device)
