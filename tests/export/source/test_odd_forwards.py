"""Unusual forwards: a network that works in PyTorch is exported, or rejected with the cause."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import ops

from export import Exported, ExportSettings, export_model
from export.errors import ConversionError, ExportError, UnsupportedNetworkError
from export.source.module import plain_preprocessing
from export.verify.shape_witnesses import GEOMETRY, PYTORCH
from protos import manifest

SIZE = (3, 8, 8)


class Net(nn.Module):
    """A linear network that first calls a function of the test; `attributes` are set on the network."""

    def __init__(self, first: Callable[[nn.Module, torch.Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)
        self.first = first
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        """(N, 3, 8, 8) to (N, 5), unless `first` returns no tensor."""
        output = self.first(self, x)
        return self.head(output.flatten(1)) if isinstance(output, torch.Tensor) else output


def export(network: nn.Module, to: Path, *, raw: bool = False) -> Exported:
    """Export `network` with an image interface, or raw."""
    return export_model(
        network.eval(), ExportSettings(to=to, name="n", raw=raw), preprocessing=plain_preprocessing(SIZE)
    )


def with_mask() -> Net:
    """Return a network with a buffer that contains infinities."""
    network = Net(lambda self, x: torch.softmax(x + self.mask, -1))
    network.register_buffer("mask", torch.triu(torch.full((8, 8), -torch.inf), 1))
    return network


@pytest.mark.parametrize(
    "network",
    [
        Net(lambda self, x: x - self.mean, mean=torch.rand(3, 1, 1)),
        Net(lambda self, x: x - self.constants["means"][1], constants={"means": [None, torch.rand(3, 1, 1)]}),
        Net(lambda _, x: x.view(x.shape[0], -1)),
        Net(lambda _, x: x.sub_(0.5).relu_()),
        Net(lambda self, x: x * self.scale, scale=nn.Parameter(torch.tensor(3), requires_grad=False)),
        with_mask(),
    ],
    ids=["plain-tensor", "tensors-in-a-dict", "view", "in-place", "integers", "infinite-mask"],
)
@pytest.mark.parametrize("raw", [False, True], ids=["images", "raw"])
def test_supported(network: Net, tmp_path: Path, raw: bool) -> None:
    """The network is exported, and the shapes of all module outputs are verified."""
    shapes = export(network, tmp_path, raw=raw).manifest.shapes
    assert shapes.module_outputs_verified == shapes.module_outputs > 0


def test_forward_that_reads_values(tmp_path: Path) -> None:
    """If the network does not run on the meta device, the witness reports why, and no module output is verified."""

    def checked(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and float(x.max()) > 1e6:
            raise ValueError("not images")
        return x

    written = export(Net(checked), tmp_path).manifest
    failures = {witness.name: witness.silent_because for witness in written.shapes.witnesses if witness.silent_because}
    assert failures.keys() == {PYTORCH, GEOMETRY}
    assert "meta" in failures[PYTORCH]
    assert written.shapes.module_outputs_verified == 0
    assert {layer.status for layer in written.layer_map.layers if layer.name == "head"} == {manifest.EXACT}


def test_graph_with_sequences(tmp_path: Path) -> None:
    """A network whose graph has values that are sequences of tensors is exported."""
    indices = torch.arange(8).reshape(2, 4)
    bag = nn.EmbeddingBag(10, 192)
    network = Net(lambda self, x: x.flatten(1) + self.bag(indices).mean(0), bag=bag)
    assert export(network, tmp_path).nodes > 5


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (
            Net(lambda _, x: x if x.sum() > 0 else -x),
            ConversionError,
            r"reads values of its input .* test_odd_forwards.py:",
        ),
        (Net(lambda _, x: x.view(len(x), -1)), ConversionError, r"batch = 2 .len\(\) fixes it: use x.shape"),
        (Net(lambda _, x: sys.exit(0)), UnsupportedNetworkError, "fails on an input of 3x8x8: SystemExit: 0"),
        (Net(lambda _, x: x, lock=threading.Lock()), UnsupportedNetworkError, "cannot be copied, .* cannot pickle"),
        (
            Net(lambda _, x: (x[:, :0],)),
            UnsupportedNetworkError,
            r"output_0 has no elements: its shape is \[5, 0, 8, 8\]",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)),
            UnsupportedNetworkError,
            "'1.running_mean' holds 192 values that are",
        ),
    ],
    ids=["branch", "len", "exit", "lock", "empty", "nan-buffer"],
)
def test_unsupported(network: nn.Module, error: type[ExportError], message: str, tmp_path: Path) -> None:
    """The network is rejected with the cause, and nothing is written."""
    for buffer in network.buffers():
        buffer.fill_(torch.nan) if buffer.is_floating_point() else None
    with pytest.raises(error, match=message):
        export(network, tmp_path, raw=True)
    assert list(tmp_path.iterdir()) == []


class Sparse(nn.Module):
    """Returns its input as a sparse tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Net(lambda self, x: torch.func.vmap(self.layer)(x), layer=nn.Linear(8, 8)),
            r"the layer 'layer' .Linear. is called inside a transform of torch.func, such as vmap",
        ),
        (
            Net(lambda self, x: self.layer(x).to_dense(), layer=Sparse()),
            r"the layer 'layer' .Sparse. accepts or returns a tensor of layout sparse_coo",
        ),
    ],
    ids=["vmap", "sparse"],
)
def test_a_layer_whose_output_cannot_be_recorded(network: nn.Module, message: str, tmp_path: Path) -> None:
    """The error names the layer, and does not claim that the network fails."""
    with pytest.raises(UnsupportedNetworkError, match=message):
        export(network, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Variadic(Net):
    """A network whose forward accepts any number of arguments."""

    def forward(self, *args: Any, **_options: Any) -> Any:  # type: ignore[override]
        return super().forward(*args)


def test_a_variadic_forward(tmp_path: Path) -> None:
    """A forward(*args) is exported with a dynamic batch."""
    assert list(export(Variadic(lambda _, x: x), tmp_path).manifest.inputs[0].shape) == [-1, 8, 8, 3]


def boxes(_: nn.Module, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": row.reshape(1, -1), "scores": row} for row in x]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Net(boxes), "returns a list with one dict per image, as torchvision's detectors do"),
        (
            Net(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(3, track_running_stats=False)),
            "the layer 'norm' has no running statistics .* track_running_stats=True",
        ),
        (Net(lambda _, x: x * x.max().item()), "or does the forward read a value such as x.max"),
    ],
    ids=["detector", "no-statistics", "item"],
)
def test_causes(network: nn.Module, message: str, tmp_path: Path) -> None:
    """The error names the cause and a remedy."""
    with pytest.raises(UnsupportedNetworkError, match=message):
        export(network, tmp_path, raw=True)


def autocast(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return network.conv(x).float()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Net(autocast, conv=nn.Conv2d(3, 3, 1)),
            "computes in bfloat16, which ONNX's Conv does not support: remove torch.autocast or the cast",
        ),
        (
            Net(lambda _, x: ops.roi_pool(x, [torch.tensor([[1.0, 1.0, 5.0, 5.0]])] * x.shape[0], 8)),
            r"fixes the batch to 2 at test_odd_forwards.py:\d+: .*, but the batch must be dynamic",
        ),
    ],
    ids=["autocast", "fixed-batch"],
)
def test_what_cannot_be_converted(network: nn.Module, message: str, tmp_path: Path) -> None:
    """The error names the layer or the line, and a remedy."""
    with pytest.raises(ConversionError, match=message):
        export(network, tmp_path, raw=True)
