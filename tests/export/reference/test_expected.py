"""What PyTorch gives for several batches, from as few runs as are evidence."""

import numpy as np
import torch
from torch import nn

from export.interface.interface import Raw
from export.reference.expected import ReferenceRuns

SMALL = Raw((2, 4, 4), ("output",))


class Company(nn.Module):
    """Each input's answer depends on the mean of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, 4, 4) to (N, 2)."""
        centred: torch.Tensor = self.act(x - x.mean(0, keepdim=True))
        return centred.mean((2, 3))


class Last(nn.Module):
    """A layer with the batch last."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, 4, 4) to (N, 2)."""
        moved: torch.Tensor = self.act(x.permute(1, 2, 3, 0))
        return moved.mean((1, 2)).T


def expectation(network: nn.Module) -> ReferenceRuns:
    """Of the five telling inputs."""
    return ReferenceRuns(network.eval(), SMALL, network)


def plain() -> nn.Module:
    """Rows that do not depend on each other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


def test_rows_stand_for_a_batch() -> None:
    """What comes first is the largest batch's rows, what comes last PyTorch's own run; they are the same."""
    rows, alone = expectation(plain()).samples(3)
    assert rows.expected.layers.keys() == alone.expected.layers.keys() == {"0", "1", "2", "3", ""}
    for name, layer in alone.expected.layers.items():
        np.testing.assert_allclose(rows.expected.layers[name].value, layer.value, atol=1e-6)
        np.testing.assert_allclose(rows.exact.layers[name].value, alone.exact.layers[name].value, atol=1e-12)


def test_a_batch_is_a_beginning_of_the_largest() -> None:
    """Inputs and expectation are of the same images."""
    of = expectation(plain())
    np.testing.assert_array_equal(of.inputs(2), SMALL.telling()[:2])
    (whole,) = of.samples(5)
    assert whole.expected.outputs["output"].shape == (5, 2)


def test_rows_that_depend_on_each_other_are_no_evidence() -> None:
    """Such a network is run for each batch by itself."""
    (alone,) = expectation(Company()).samples(3)
    x = torch.from_numpy(SMALL.telling()[:3])
    np.testing.assert_array_equal(alone.expected.outputs["output"], Company()(x).numpy())


def test_a_layer_with_the_batch_elsewhere() -> None:
    """Where one layer has no row for each input, every batch is run by itself."""
    (alone,) = expectation(Last()).samples(2)
    assert alone.expected.layers["act"].value.shape == (2, 4, 4, 2)
