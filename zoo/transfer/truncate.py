"""Backbones truncated after an early layer, without the layers that are too specific to their pretraining task.

The layers after it are replaced by `Removed`, an Identity, so that all others keep their paths and weight names.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError, did_you_mean
from zoo.layers import Removed
from zoo.networks.preprocessing import Preprocessing


def cut_after(network: nn.Module, layer: str) -> None:
    """Make the output of the module at path `layer` the network's features, in place.

    Raises:
        SettingsError: there is no such layer, or `forward_features` processes its output outside of later layers.
    """
    paths = [path for path, _ in network.named_modules() if path]
    if layer not in paths:
        raise SettingsError(f"{type(network).__name__} has no layer '{layer}' to cut after{did_you_mean(layer, paths)}")
    was_training = network.training
    network.eval()
    output, later_paths = _trace(network, layer)
    for path in _outermost(later_paths):
        network.set_submodule(path, Removed())
    _check_features(network, layer, output)
    network.train(was_training)


def _trace(network: nn.Module, layer: str) -> tuple[Tensor, set[str]]:
    """Return the layer's output for a sample, and the paths of the modules that `forward_features` calls after it."""
    traced, outputs, later_paths = copy.deepcopy(network), [], set[str]()

    def record_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output.clone() if isinstance(output, Tensor) else output)

    traced.get_submodule(layer).register_forward_hook(record_output)
    for path, module in traced.named_modules():
        module.register_forward_pre_hook(lambda _module, _inputs, path=path: later_paths.add(path) if outputs else None)
    _features(traced, _sample(network))
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        reason = "returns no tensor or is called twice" if outputs else "is not called by forward_features"
        raise SettingsError(f"{type(network).__name__} cannot be cut after '{layer}', which {reason}")
    return outputs[0], later_paths


def _outermost(paths: set[str]) -> list[str]:
    """Return the paths that are not inside another one."""
    return sorted(path for path in paths if path and not any(path.startswith(f"{other}.") for other in paths))


def _check_features(network: nn.Module, layer: str, expected: Tensor) -> None:
    misfit = SettingsError(
        f"{type(network).__name__} cannot be cut after '{layer}': the network processes its output outside of layers; "
        "choose the end of a stage"
    )
    try:
        actual = _features(network, _sample(network))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise misfit from error
    if actual.shape != expected.shape or not (actual.is_meta or torch.equal(actual, expected)):
        raise misfit


def _features(network: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = network.forward_features(x)
    return features


def _sample(network: nn.Module) -> Tensor:
    """Return a random image (1, C, H, W) of the network's input size, the same at each call."""
    size = Preprocessing.from_network(network).input_size
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.rand(1, *size, generator=generator, device="cpu").to(next(network.parameters()).device)
