"""Records of the tensors that modules return."""

import numpy as np
import torch
from torch import Tensor, nn

from export.arrays import Array
from export.tracing.arguments import Arguments
from export.tracing.trace import stream, trace


def image() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def in_place() -> nn.Module:
    """Return a network with a layer that overwrites, through a view, what the first layer returned."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(inplace=True), nn.Unflatten(1, (4, 16)))


def expected() -> dict[str, Array]:
    with torch.no_grad():
        conv = in_place()[0](image()).numpy()  # type: ignore[index]
    flat = conv.reshape(2, -1)
    return {
        "0": conv,
        "1": flat,
        "2": flat.clip(0),
        "3": flat.clip(0).reshape(2, 4, 16),
        "": flat.clip(0).reshape(2, 4, 16),
    }


def test_trace_before_an_overwrite() -> None:
    """A record has the values of the moment at which its module returned."""
    _, records = trace(in_place(), Arguments((image(),)))
    for record in records:
        np.testing.assert_array_equal(record.value, expected()[record.name])
    assert [record.name for record in records] == list(expected())
    assert not records[0].is_passthrough


def test_stream_before_an_overwrite() -> None:
    """A streamed record has the values of the moment at which its module returned."""
    values: dict[str, Array] = {}
    output = stream(in_place(), Arguments((image(),)), lambda record: values.update({record.name: record.value.copy()}))
    assert list(values) == list(expected())
    for name, value in expected().items():
        np.testing.assert_array_equal(values[name], value)
    np.testing.assert_array_equal(output, expected()[""])


def test_only_overwritten_values_are_copied() -> None:
    """The record of a tensor that nothing overwrites has the tensor's memory."""
    output, records = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), Arguments((image(),)))
    assert np.shares_memory(records[1].value, output.numpy())


def test_a_buffer_that_a_later_run_overwrites() -> None:
    """The record of a buffer keeps its values when a later run writes to the buffer."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))
            self.act = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.act(self.count)

    network = Counting()
    _, records = trace(network, Arguments((image(),)))
    trace(network, Arguments((image(),)))
    assert records[0].value.tolist() == [1]


class Transposed(nn.Module):
    """A layer whose output is not contiguous, and so is copied for the record."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.offset).mT


class Forgetful(nn.Sequential):
    """A network that frees the output of each layer before the next one allocates its own."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            layer(x)
        return x * 2


def test_stream_of_tensors_at_one_address() -> None:
    """A tensor that has the address of a freed one is not confused with it."""
    values: dict[str, float] = {}
    network = Forgetful(*map(Transposed, range(8)))
    arguments = Arguments((torch.zeros(1, 1, 64, 64),))
    stream(network, arguments, lambda record: values.update({record.name: float(record.value.max())}))
    assert values == {**{str(index): index for index in range(8)}, "": 0}
