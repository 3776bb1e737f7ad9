"""The reference runs of a network, and the rejection of random and stateful networks."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import UnsupportedNetworkError
from export.interface.interface import one_input
from export.reference.determinism import reference_runs, require_deterministic
from export.verify.layer_map import map_layers
from export.verify.model_runner import ModelRunner
from export.verify.parity import BATCHES, check_parity

SMALL = one_input((2, 4, 4), ("output",))


class Net(nn.Module):
    """A network that calls a function of the test, and counts its input rows by dtype."""

    def __init__(self, forward: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.function = forward
        self.rows: Counter[torch.dtype] = Counter()

    def forward(self, x: torch.Tensor) -> Any:
        """(N, 2, 4, 4) to the output of the function."""
        if not torch.compiler.is_compiling():
            self.rows[x.dtype] += len(x)
        return self.function(self.act(x))


def test_how_often_pytorch_is_run() -> None:
    """The layer map and all batches need one run of all inputs, one of two inputs, and two of a single input.

    Another run, of a fresh copy of the network, is not counted.
    """
    network = prepare(Net(lambda x: x.mean((2, 3))).eval())
    model = convert(network, SMALL, 20)
    network.rows.clear()
    runs = reference_runs(network, SMALL)
    layer_map = map_layers(model, network, runs)
    require_deterministic(*runs)
    assert len(check_parity(ModelRunner(model), layer_map, runs)) == len(BATCHES)
    assert network.rows[torch.float32] == 5 + 2 + 1 + 1


class Stateful(nn.Module):
    """A network that divides by a state, which a function of the test updates in each run."""

    def __init__(self, update: Callable[[nn.Module, torch.Tensor], None]) -> None:
        super().__init__()
        self.register_buffer("peak", torch.zeros(()))
        self.first: torch.Tensor | None = None
        self.calls, self.update = 0, update

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, 4, 4) to (N, 2)."""
        self.update(self, x)
        scale = self.peak if self.first is None else self.first
        return x.mean((2, 3)) / (scale + 1 + (self.calls > 1))


def update_peak(network: Any, x: torch.Tensor) -> None:
    network.peak.copy_(torch.maximum(network.peak, x.max()))


def set_first(network: Any, x: torch.Tensor) -> None:
    network.first = x.max() if network.first is None else network.first


def count_calls(network: Any, _x: torch.Tensor) -> None:
    network.calls += 1


@pytest.mark.parametrize("update", [update_peak, set_first, count_calls])
def test_stateful_network(update: Callable[[nn.Module, torch.Tensor], None]) -> None:
    """A stateful network is rejected: the file would contain the state after the probe inputs."""
    with pytest.raises(UnsupportedNetworkError, match="depend on earlier inputs"):
        require_deterministic(*reference_runs(Stateful(update).eval(), SMALL))


def test_state_without_effect() -> None:
    """State without an effect on the outputs is accepted, such as a call counter or a cache."""

    class Caching(Stateful):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.first = torch.full((), float(x.shape[2])) if self.first is None else self.first
            return x.mean((2, 3)) / self.first

    require_deterministic(*reference_runs(Caching(count_calls).eval(), SMALL))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: (x - x.mean(0, keepdim=True)).sum((2, 3)), "output for an image depend on the other images"),
        (lambda x: torch.nn.functional.dropout(x, 0.5), "output for the same images differ in each run"),
        (lambda x: x.sum((2, 3)).log(), "output for 5 images are not all finite"),
        (lambda x: x[:1], "output for 5 images have 1 rows"),
        (lambda x: x.squeeze(0), "have 2 rows|fails on an input|depend on the other images"),
    ],
)
def test_no_independent_rows(forward: Callable[[torch.Tensor], Any], message: str) -> None:
    """A network without a deterministic, finite, independent row for each input is rejected with the cause."""
    with pytest.raises(UnsupportedNetworkError, match=message):
        require_deterministic(*reference_runs(Net(forward).eval(), SMALL))


def test_other_tensors_for_another_batch() -> None:
    """A network that returns an additional tensor for a single image is rejected."""
    several = Net(lambda x: {"output": x, "extra": x} if len(x) == 1 else {"output": x})
    with pytest.raises(UnsupportedNetworkError, match="returns output for some inputs and output, extra for others"):
        require_deterministic(*reference_runs(several.eval(), SMALL))


def test_the_same_buffer_each_time() -> None:
    """A network that returns the same buffer with another value in each run is rejected."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("result", torch.zeros(5, 1))
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.result[: len(x)].fill_(float(self.calls))

    with pytest.raises(UnsupportedNetworkError, match="for the same images differ in each run"):
        require_deterministic(*reference_runs(Counting().eval(), SMALL))


def test_random_numbers_with_rare_effect() -> None:
    """A network that draws random numbers is reported as random, even if two runs happen to be equal."""
    draws = iter([0.0, 0.0, 1.0, 0.0, *[1.0] * 9])

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x + float(torch.rand(()) >= 0) * next(draws)

    (runs,) = reference_runs(prepare(Net(forward).eval()), SMALL)
    with pytest.raises(
        UnsupportedNetworkError, match=r"draw random numbers, as dropout, torch\.randn or gumbel_softmax do"
    ):
        require_deterministic(runs)
