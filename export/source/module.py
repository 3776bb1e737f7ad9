"""A network from anybody's code: the module that `package.module:function` returns, or one that a program has at hand."""

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
from export.source.unsupported import bare_net
from zoo import LoadedNetwork
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import WeightsSource

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
OURS = ("export", "protos", "serve", "zoo", "zoonnx")


def is_function(source: str) -> bool:
    """Whether `source` is written as package.module:function."""
    return FUNCTION.fullmatch(source) is not None


def load_function(
    source: str, preprocessing: Preprocessing | None = None, labels: Sequence[str] = (), seed: int = 0
) -> LoadedNetwork:
    """Return the network that the function `source` makes; the current folder can be imported from.

    Raises: SourceError; SettingsError for a `seed` outside 0 to 2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed must be at least 0 and less than 2**32; got {seed}.")
    function = _find(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _call(source, function)
    return loaded_module(network, preprocessing, labels, name=source.partition(":")[2], architecture=source, seed=seed)


def loaded_module(
    network: nn.Module,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
    *,
    name: str = "",
    architecture: str = "",
    seed: int = 0,
) -> LoadedNetwork:
    """Return `network` with all that is known of it: without `preprocessing`, what its own `pretrained_cfg` says.

    Raises: SourceError when neither says what the network takes; UnsupportedNetworkError.
    """
    network = bare_net(network)
    kind = type(network).__name__
    if preprocessing is None:
        if not getattr(network, "pretrained_cfg", None):
            raise SourceError(f"nothing says what {kind} takes: give its input size (--input-size C,H,W).")
        preprocessing = Preprocessing.from_net(network)
    weights = WeightsSource("given", seed)
    return LoadedNetwork(network, name or kind, architecture or kind, tuple(labels), preprocessing, weights)


def plain_preprocessing(
    input_size: tuple[int, int, int], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Preprocessing:
    """Return the rule for a network that takes pixels from 0 to 1, less `mean`, divided by `std`, by channel."""
    channels = input_size[0]
    return Preprocessing(
        input_size=input_size, mean=tuple(mean or (0.0,) * channels), std=tuple(std or (1.0,) * channels)
    )


def _find(source: str) -> Callable[[], Any]:
    module_name, _, name = source.partition(":")
    _require_other_name(module_name)
    module = _import(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        what = "is not there" if function is None else f"is a {type(function).__name__}, not a function"
        raise SourceError(f"{source}: '{name}' {what}; the module '{module_name}' was found.")
    found: Callable[[], Any] = function
    return found


def _require_other_name(name: str) -> None:
    """Refuse a module in the current folder that one of zoonnx's own packages hides."""
    package = name.partition(".")[0]
    here = Path.cwd() / package
    ours = importlib.util.find_spec(package) if package in OURS else None
    if ours and (here.is_dir() or here.with_suffix(".py").is_file()) and Path(ours.origin or "").parent != here:
        raise SourceError(f"'{package}' is the name of a package of zoonnx: give yours another name than that.")


def _import(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f" A module is named without '.py': {name[:-3]}:FUNCTION." if name.endswith(".py") else ""
            raise SourceError(
                f"there is no module '{name}', neither installed nor in the current folder.{hint}"
            ) from error
        raise SourceError(f"the module '{name}' needs '{error.name}', which is not installed.") from error
    except SystemExit as error:
        raise SourceError(f"the module '{name}' ends the program as it is imported: sys.exit({error}).") from error
    except Exception as error:
        raise SourceError(f"the module '{name}' fails as it is imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)


def _call(source: str, function: Callable[[], Any]) -> nn.Module:
    try:
        network = function()
    except SystemExit as error:
        raise SourceError(f"{source} ends the program instead of returning a network: sys.exit({error}).") from error
    except Exception as error:
        raise SourceError(
            f"{source} fails when it is called without arguments: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise SourceError(f"{source} must return a torch.nn.Module; it returns {type(network).__name__}.")
    return network
