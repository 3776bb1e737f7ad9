"""Networks as people write them: what works in PyTorch is exported, or refused in words."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from export.errors import ConversionError, ExportError, UnsupportedNetworkError
from export.source.module import plain_preprocessing
from export.verify.shapes import GEOMETRY, PYTORCH
from protos import manifest

SIZE = (3, 8, 8)


class Net(nn.Module):
    """A linear network that first does what the test asks for."""

    def __init__(self, first: Callable[[nn.Module, torch.Tensor], Any], **kept: Any) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)
        self.first = first
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        """(N, 3, 8, 8) to (N, 5), unless `first` gives something else."""
        given = self.first(self, x)
        return self.head(given.flatten(1)) if isinstance(given, torch.Tensor) else given


def export(network: nn.Module, to: Path, *, raw: bool = False) -> Exported:
    """Export `network` for images, or as it is."""
    return export_model(
        network.eval(), ExportSettings(to=to, name="n", raw=raw), preprocessing=plain_preprocessing(SIZE)
    )


def with_mask() -> Net:
    """A buffer that holds infinities."""
    network = Net(lambda self, x: torch.softmax(x + self.mask, -1))
    network.register_buffer("mask", torch.triu(torch.full((8, 8), -torch.inf), 1))
    return network


@pytest.mark.parametrize(
    "network",
    [
        Net(lambda self, x: x - self.kept, kept=torch.rand(3, 1, 1)),
        Net(lambda self, x: x - self.kept["means"][1], kept={"means": [None, torch.rand(3, 1, 1)]}),
        Net(lambda _, x: x.view(x.shape[0], -1)),
        Net(lambda _, x: x.sub_(0.5).relu_()),
        Net(lambda self, x: x * self.scale, scale=nn.Parameter(torch.tensor(3), requires_grad=False)),
        with_mask(),
    ],
    ids=["plain-tensor", "tensors-in-a-dict", "view", "in-place", "whole-numbers", "infinite-mask"],
)
@pytest.mark.parametrize("raw", [False, True], ids=["images", "raw"])
def test_what_is_exported(network: Net, tmp_path: Path, raw: bool) -> None:
    """Every layer's shape is verified by PyTorch's meta device too."""
    found = export(network, tmp_path, raw=raw).manifest.shapes
    assert found.module_outputs_verified == found.module_outputs > 0


def test_a_forward_that_looks_at_values(tmp_path: Path) -> None:
    """Where the meta device cannot run the network, it is silent, and no module's output is called verified."""

    def checked(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and float(x.max()) > 1e6:
            raise ValueError("not images")
        return x

    promise = export(Net(checked), tmp_path).manifest
    silent = {each.name: each.silent_because for each in promise.shapes.witnesses if each.silent_because}
    assert silent.keys() == {PYTORCH, GEOMETRY}
    assert "meta" in silent[PYTORCH]
    assert promise.shapes.module_outputs_verified == 0
    assert {layer.status for layer in promise.layer_map.layers if layer.name == "head"} == {manifest.EXACT}


def test_a_graph_with_sequences(tmp_path: Path) -> None:
    """A value that is a list of tensors is no layer's, and has no shape."""
    places = torch.arange(8).reshape(2, 4)
    bag = nn.EmbeddingBag(10, 192)
    network = Net(lambda self, x: x.flatten(1) + self.bag(places).mean(0), bag=bag)
    assert export(network, tmp_path).nodes > 5


@pytest.mark.parametrize(
    ("network", "error", "words"),
    [
        (
            Net(lambda _, x: x if x.sum() > 0 else -x),
            ConversionError,
            r"decides by the values .* test_odd_forwards.py:",
        ),
        (Net(lambda _, x: x.view(len(x), -1)), ConversionError, r"batch = 2 .a len\(\) fixes it: take x.shape"),
        (Net(lambda _, x: sys.exit(0)), UnsupportedNetworkError, "fails on an input of 3x8x8: SystemExit: 0"),
        (Net(lambda _, x: x, lock=threading.Lock()), UnsupportedNetworkError, "cannot be copied, .* cannot pickle"),
        (
            Net(lambda _, x: (x[:, :0],)),
            UnsupportedNetworkError,
            r"output_0 is of shape \[5, 0, 8, 8\]: there is nothing in it",
        ),
        (
            Net(lambda _, x: x).half(),
            UnsupportedNetworkError,
            r"'head.weight' is float16, .* call network.float\(\) first",
        ),
        (
            Net(lambda _, x: x).double(),
            UnsupportedNetworkError,
            r"'head.weight' is float64, .* call network.float\(\) first",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)),
            UnsupportedNetworkError,
            "'1.running_mean' holds 192 values that are",
        ),
    ],
    ids=["branch", "len", "exit", "lock", "empty", "half", "double", "nan-buffer"],
)
def test_what_is_refused(network: nn.Module, error: type[ExportError], words: str, tmp_path: Path) -> None:
    """Each is told what is wrong with it, and nothing is written."""
    for buffer in network.buffers():
        buffer.fill_(torch.nan) if buffer.is_floating_point() else None
    with pytest.raises(error, match=words):
        export(network, tmp_path, raw=True)
    assert list(tmp_path.iterdir()) == []
