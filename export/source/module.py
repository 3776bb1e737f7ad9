"""Loads a network from user code: the result of `package.module:function`, or an existing module."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.errors import SettingsError, SourceError
from export.source.source_network import SourceNetwork
from export.source.unsupported import require_module, require_supported
from export.source.wrappers import unwrap
from zoo import LoadedNetwork
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import WeightsSource

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
ZOONNX_PACKAGES = ("export", "protos", "serve", "zoo", "zoonnx")


def is_function(source: str) -> bool:
    """Return whether `source` has the form package.module:function."""
    return FUNCTION.fullmatch(source) is not None


def load_function(
    source: str, preprocessing: Preprocessing | None = None, labels: Sequence[str] = (), seed: int = 0
) -> LoadedNetwork:
    """Call the function `source` and return its network, which accepts images.

    Raises:
        SourceError: The function cannot be imported or called, or does not return a module; or the network has no
            preprocessing.
        SettingsError: `seed` is outside 0 to 2**32 - 1.
    """
    network = _network_of(source, seed)
    return loaded_module(network, preprocessing, labels, name=function_name(source), architecture=source, seed=seed)


def load_function_with_inputs(source: str, labels: Sequence[str] = (), seed: int = 0) -> SourceNetwork:
    """Call the function `source` and return its network, whose inputs are described by the settings.

    Raises: as `load_function`.
    """
    network = _network_of(source, seed)
    return module_with_inputs(network, labels, name=function_name(source), architecture=source, seed=seed)


def function_name(source: str) -> str:
    """Return FUNCTION of package.module:FUNCTION."""
    return source.partition(":")[2]


def module_with_inputs(
    network: nn.Module, labels: Sequence[str] = (), *, name: str = "", architecture: str = "", seed: int = 0
) -> SourceNetwork:
    """Return `network` with its labels; its inputs are described by the settings. Raises: UnsupportedNetworkError."""
    network = supported(network)
    class_name = type(network).__name__
    weights = WeightsSource("given", seed)
    return SourceNetwork(network, name or class_name, architecture or class_name, tuple(labels), None, weights)


def loaded_module(
    network: nn.Module,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
    *,
    name: str = "",
    architecture: str = "",
    seed: int = 0,
) -> LoadedNetwork:
    """Return `network` with its preprocessing, by default that of timm's `pretrained_cfg`, and its labels.

    Raises:
        SourceError: `preprocessing` is None, and the network has no `pretrained_cfg`.
        UnsupportedNetworkError: The network cannot be exported.
    """
    network = supported(network)
    class_name = type(network).__name__
    if preprocessing is None:
        if not getattr(network, "pretrained_cfg", None):
            raise SourceError(
                f"the input size of {class_name} is unknown: pass `preprocessing` (--input-size C,H,W), or describe "
                "its inputs with --raw --input NAME=SHAPE."
            )
        preprocessing = Preprocessing.from_network(network)
    weights = WeightsSource("given", seed)
    return LoadedNetwork(network, name or class_name, architecture or class_name, tuple(labels), preprocessing, weights)


def supported(network: nn.Module) -> nn.Module:
    """Return `network` without wrappers. Raises: SourceError, UnsupportedNetworkError if it cannot be exported."""
    unwrapped = unwrap(require_module(network))
    require_supported(unwrapped)
    return unwrapped


def plain_preprocessing(
    input_size: tuple[int, int, int], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Preprocessing:
    """Return the preprocessing (pixel - mean) / std for pixels from 0 to 1, with `mean` and `std` per channel."""
    channels = input_size[0]
    return Preprocessing(
        input_size=input_size, mean=tuple(mean or (0.0,) * channels), std=tuple(std or (1.0,) * channels)
    )


def _network_of(source: str, seed: int) -> nn.Module:
    """Call the function `source` and return its network. Modules of the current folder can be imported."""
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed must be at least 0 and less than 2**32; got {seed}.")
    function = _find_function(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _call(source, function)


def _find_function(source: str) -> Callable[[], Any]:
    module_name, _, name = source.partition(":")
    _require_not_shadowed(module_name)
    module = _import(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        problem = "does not exist" if function is None else f"is a {type(function).__name__}, not a function"
        raise SourceError(f"{source}: '{name}' {problem}; the module '{module_name}' was imported.")
    factory: Callable[[], Any] = function
    return factory


def _require_not_shadowed(name: str) -> None:
    """Reject a module of the current folder that has the name of one of zoonnx's own packages."""
    package = name.partition(".")[0]
    here = Path.cwd() / package
    own_spec = importlib.util.find_spec(package) if package in ZOONNX_PACKAGES else None
    if own_spec and (here.is_dir() or here.with_suffix(".py").is_file()) and Path(own_spec.origin or "").parent != here:
        raise SourceError(
            f"'{package}' is also the name of a package of zoonnx, which hides yours: rename your module."
        )


def _import(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f" Name the module without '.py': {name[:-3]}:FUNCTION." if name.endswith(".py") else ""
            raise SourceError(
                f"there is no module '{name}', neither installed nor in the current folder.{hint}"
            ) from error
        raise SourceError(f"the module '{name}' needs '{error.name}', which is not installed.") from error
    except SystemExit as error:
        raise SourceError(f"importing the module '{name}' exits the program: sys.exit({error}).") from error
    except Exception as error:
        raise SourceError(f"importing the module '{name}' failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)


def _call(source: str, function: Callable[[], Any]) -> nn.Module:
    try:
        network = function()
    except SystemExit as error:
        raise SourceError(f"{source} exits the program instead of returning a network: sys.exit({error}).") from error
    except Exception as error:
        raise SourceError(f"calling {source} without arguments failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise SourceError(f"{source} must return a torch.nn.Module; it returns {type(network).__name__}.")
    return network
