"""PyTorch's results for several batches, from few runs."""

import numpy as np
import pytest
import torch
from torch import nn

from export.interface.interface import one_input
from export.reference.expected import ReferenceRuns

SMALL = one_input((2, 4, 4), ("output",))


class BatchMean(nn.Module):
    """A network whose output for an input depends on the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, 4, 4) to (N, 2)."""
        centred: torch.Tensor = self.act(x - x.mean(0, keepdim=True))
        return centred.mean((2, 3))


class BatchLast(nn.Module):
    """A network that has a layer with the batch as the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, 4, 4) to (N, 2)."""
        permuted: torch.Tensor = self.act(x.permute(1, 2, 3, 0))
        return permuted.mean((1, 2)).T


def reference_runs(network: nn.Module) -> ReferenceRuns:
    """Run `network` on the five probe inputs."""
    return ReferenceRuns(network.eval(), SMALL, network)


def independent_rows() -> nn.Module:
    """Return a network whose rows do not depend on each other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


def test_rows_of_the_largest_batch() -> None:
    """The first candidate has rows of the largest batch, the second is a separate run of the batch; both are equal."""
    rows, batch = reference_runs(independent_rows()).candidates(3)
    assert rows.float32.layers.keys() == batch.float32.layers.keys() == {"0", "1", "2", "3", ""}
    for name, layer in batch.float32.layers.items():
        np.testing.assert_allclose(rows.float32.layers[name].value, layer.value, atol=1e-6)
        errors = [pair.layer(name).agreement(layer.value).reference_error for pair in (rows, batch)]
        assert errors == [pytest.approx(errors[0], abs=2e-7)] * 2


def test_inputs_of_a_batch() -> None:
    """The inputs of a batch are the first probe inputs; the largest batch needs no further run."""
    runs = reference_runs(independent_rows())
    np.testing.assert_array_equal(runs.inputs(2)["x"], SMALL.probe_inputs()["x"][:2])
    (pair,) = runs.candidates(5)
    assert pair.float32.outputs["output"].shape == (5, 2)


def test_rows_that_depend_on_each_other() -> None:
    """A network whose rows depend on each other is run for each batch."""
    (batch,) = reference_runs(BatchMean()).candidates(3)
    x = torch.from_numpy(SMALL.probe_inputs()["x"][:3])
    np.testing.assert_array_equal(batch.float32.outputs["output"], BatchMean()(x).numpy())


def test_layer_with_the_batch_last() -> None:
    """A network with a layer that has no row per input is run for each batch."""
    (batch,) = reference_runs(BatchLast()).candidates(2)
    assert batch.float32.layers["act"].value.shape == (2, 4, 4, 2)
