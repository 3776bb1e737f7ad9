"""A network is run as seldom as tells whether a server may batch what it is given."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import UnsupportedNetworkError
from export.interface.interface import Raw
from export.reference.determinism import expectations, require_deterministic
from export.verify.layer_map import map_layers
from export.verify.parity import BATCHES, check_numbers

SMALL = Raw((2, 4, 4), ("output",))


class Net(nn.Module):
    """Gives what `forward` makes of the input, and counts the inputs that it was given, by dtype."""

    def __init__(self, forward: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.inner = forward
        self.seen: Counter[torch.dtype] = Counter()

    def forward(self, x: torch.Tensor) -> Any:
        """(N, 2, 4, 4) to whatever the test wants."""
        if not torch.compiler.is_compiling():
            self.seen[x.dtype] += len(x)
        return self.inner(self.act(x))


def test_how_often_pytorch_is_run() -> None:
    """One run of all inputs in both precisions, one of two, one of one: for the map and all batches together.

    A copy that was not run before is run on one more, uncounted.
    """
    network = prepare(Net(lambda x: x.mean((2, 3))).eval())
    model = convert(network, SMALL.input_size, 20, SMALL.net_outputs)
    network.seen.clear()
    expected = expectations(network, SMALL)
    layer_map = map_layers(model, network, expected)
    require_deterministic(*expected)
    assert len(check_numbers(model, layer_map, expected)) == len(BATCHES)
    assert network.seen[torch.float32] == 5 + 2 + 1


class Remembering(nn.Module):
    """Divides by something that earlier inputs left behind."""

    def __init__(self, remember: Callable[[nn.Module, torch.Tensor], None]) -> None:
        super().__init__()
        self.register_buffer("peak", torch.zeros(()))
        self.first: torch.Tensor | None = None
        self.calls, self.remember = 0, remember

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, 4, 4) to (N, 2)."""
        self.remember(self, x)
        scale = self.peak if self.first is None else self.first
        return x.mean((2, 3)) / (scale + 1 + (self.calls > 1))


def keep_the_peak(network: Any, x: torch.Tensor) -> None:
    network.peak.copy_(torch.maximum(network.peak, x.max()))


def keep_the_first(network: Any, x: torch.Tensor) -> None:
    network.first = x.max() if network.first is None else network.first


def count(network: Any, _x: torch.Tensor) -> None:
    network.calls += 1


@pytest.mark.parametrize("remember", [keep_the_peak, keep_the_first, count])
def test_a_net_that_remembers(remember: Callable[[nn.Module, torch.Tensor], None]) -> None:
    """What a network keeps of the telling inputs would be in the file as if it had been given with it."""
    with pytest.raises(UnsupportedNetworkError, match="depend on what the network was run on before"):
        require_deterministic(*expectations(Remembering(remember).eval(), SMALL))


def test_what_is_kept_and_never_used() -> None:
    """A network may count its calls, or keep what it would compute again in the same way."""

    class Keeping(Remembering):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.first = torch.full((), float(x.shape[2])) if self.first is None else self.first
            return x.mean((2, 3)) / self.first

    require_deterministic(*expectations(Keeping(count).eval(), SMALL))


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda x: (x - x.mean(0, keepdim=True)).sum((2, 3)), "output for an image depend on the other images"),
        (lambda x: torch.nn.functional.dropout(x, 0.5), "other output for the same images each time"),
        (lambda x: x.sum((2, 3)).log(), "output for 5 images are not all finite"),
        (lambda x: x[:1], "output for 5 images are 1 rows"),
        (lambda x: x.squeeze(0), "are 2 rows|fails on an input|depend on the other images"),
    ],
)
def test_what_no_server_may_batch(forward: Callable[[torch.Tensor], Any], words: str) -> None:
    """Each is refused in words that say what is wrong with it."""
    with pytest.raises(UnsupportedNetworkError, match=words):
        require_deterministic(*expectations(Net(forward).eval(), SMALL))


def test_other_tensors_for_another_batch() -> None:
    """A network that gives one tensor more for a single image is refused."""
    several = Net(lambda x: {"output": x, "extra": x} if len(x) == 1 else {"output": x})
    with pytest.raises(UnsupportedNetworkError, match="gives output for some inputs and output, extra for others"):
        require_deterministic(*expectations(several.eval(), SMALL))


def test_the_same_buffer_each_time() -> None:
    """A network that writes its answer into a buffer of its own does not pass for steady."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("given", torch.zeros(5, 1))
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.given[: len(x)].fill_(float(self.calls))

    with pytest.raises(UnsupportedNetworkError, match="for the same images each time"):
        require_deterministic(*expectations(Counting().eval(), SMALL))


def test_chance_that_seldom_shows() -> None:
    """A network that draws random numbers is told so, also where a second run happens to give the same."""
    draws = iter([0.0, 0.0, 1.0, 0.0, *[1.0] * 9])

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x + float(torch.rand(()) >= 0) * next(draws)

    (expected,) = expectations(prepare(Net(forward).eval()), SMALL)
    with pytest.raises(
        UnsupportedNetworkError, match=r"draw random numbers, as dropout, torch\.randn or gumbel_softmax do"
    ):
        require_deterministic(expected)
