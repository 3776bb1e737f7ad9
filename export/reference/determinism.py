"""Runs a network on the telling inputs, and refuses one of which no file can be made that a server may batch.

Requires: a prepared network, and the interface of the file to be made of it.
Ensures: at each of the interface's sizes every output has a finite row for each input; once asked, that it is the same
each time, does not depend on what the network was run on before, nor on the other inputs of its batch.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from export.errors import UnsupportedNetworkError
from export.interface.interface import Interface
from export.reference.expected import ALONE, SECOND, ReferenceRuns
from export.tracing.run import unused

BATCH_RTOL = 1e-3  # of the largest number: more than another batch size explains


def expectations(network: nn.Module, interface: Interface) -> list[ReferenceRuns]:
    """Return what PyTorch gives at each of the interface's sizes. Raises: UnsupportedNetworkError."""
    own, *others = (interface.at(*size) for size in interface.sizes)
    never_run = unused(network)
    return [_examined(network, own, never_run), *(_examined_elsewhere(network, other, never_run) for other in others)]


def telling(expected: Sequence[ReferenceRuns]) -> list[ReferenceRuns]:
    """Return the same expectations with noise in place of inputs by which the network's float32 cannot be judged.

    A norm over the places of a flat image divides by next to nothing, and gives what rounding left.
    """
    hopeless = {row for each in expected for row in each.whole.hopeless(each.most)}
    return [each.telling(hopeless) for each in expected] if hopeless else list(expected)


def _examined_elsewhere(network: nn.Module, interface: Interface, never_run: nn.Module) -> ReferenceRuns:
    try:
        return _examined(network, interface, never_run)
    except UnsupportedNetworkError as error:
        raise UnsupportedNetworkError(f"the input's height and width cannot be free: {error}") from error


def _examined(network: nn.Module, interface: Interface, never_run: nn.Module) -> ReferenceRuns:
    expectation = ReferenceRuns(network, interface, unused(never_run))
    for name, value in expectation.given.outputs.items():
        _require_rows(name, value, expectation.most)
    return expectation


def _require_rows(name: str, value: Tensor, count: int) -> None:
    rows = value.shape[0] if value.ndim else 0
    if rows == count and not value.numel():
        raise UnsupportedNetworkError(
            f"the network's {name} is of shape {list(value.shape)}: there is nothing in it to serve."
        )
    if rows != count or not bool(torch.isfinite(value).all()):
        what = "are not all finite" if rows == count else f"are {rows} rows"
        raise UnsupportedNetworkError(
            f"the network's {name} for {count} images {what}: there must be a finite row for each."
        )


def require_deterministic(expectation: ReferenceRuns) -> None:
    """Refuse a network whose answer to an input is not the same each time, after any others and in any company.

    Raises: UnsupportedNetworkError.
    """
    alone, at_first = expectation.alone(), expectation.alone(unused=True)
    for name, value in alone.items():
        if not torch.equal(value, at_first[name]):
            raise UnsupportedNetworkError(_changed(name, is_steady=not _draws(expectation)))
    _require_own_rows(expectation, alone, ALONE)
    _require_own_rows(expectation, expectation.second.outputs, slice(0, SECOND))


def _require_own_rows(expectation: ReferenceRuns, alone: Mapping[str, Tensor], place: slice) -> None:
    """Refuse a network whose outputs for some inputs alone are not those that it gives for them among all."""
    for name, value in expectation.given.outputs.items():
        if _same(alone[name], value, place):
            continue
        if not torch.equal(expectation.outputs()[name], value):
            raise UnsupportedNetworkError(_unsteady(name))
        raise UnsupportedNetworkError(
            f"the network's {name} for an image depend on the other images of its batch, which a server chooses: "
            "does a norm use the batch's own statistics?"
        )


def _changed(name: str, *, is_steady: bool) -> str:
    if not is_steady:
        return _unsteady(name)
    return (
        f"the network's {name} for an image depend on what the network was run on before, and a file remembers nothing: "
        "does its forward write into a buffer or an attribute?"
    )


def _draws(expectation: ReferenceRuns) -> bool:
    """Whether the network draws random numbers, even where they decide nothing this time, or gives others at once."""
    before, given = torch.get_rng_state(), expectation.alone()
    drew = not torch.equal(before, torch.get_rng_state())
    return drew or any(not torch.equal(value, given[name]) for name, value in expectation.alone().items())


def _unsteady(name: str) -> str:
    return (
        f"the network gives other {name} for the same images each time: does its forward draw random numbers, "
        "as dropout, torch.randn or gumbel_softmax do?"
    )


def _same(alone: Tensor, among: Tensor, place: slice) -> bool:
    rows = among[place] if alone.ndim else among
    if alone.shape != rows.shape or not rows.is_floating_point():
        return torch.equal(alone, rows)
    return torch.allclose(alone, rows, rtol=0.0, atol=BATCH_RTOL * float(among.abs().max()))
