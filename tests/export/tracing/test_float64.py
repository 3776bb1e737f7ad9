"""Runs in float64 of networks whose forward was written for float32."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import ExportSettings, export_model
from export.arrays import Array
from export.tracing.arguments import Arguments
from export.tracing.run import run, run_in_float64
from zoo.networks.preprocessing import Preprocessing

SMALL = Preprocessing(input_size=(3, 6, 6), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
FLOAT32_ROUNDING = 1e-6


class Net(nn.Module):
    """A forward and the layers that it uses."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def constant(net: Net, x: Tensor) -> Tensor:
    return functional.conv2d(net.conv(x), torch.ones(4, 1, 3, 3) / 9, groups=4).mean((2, 3))


def cell(net: Net, x: Tensor) -> Tensor:
    state = torch.zeros(x.shape[0], 5)
    for row in range(x.shape[2]):
        state = net.cell(x[:, :, row].mean(-1), state)
    return state


def own_state(net: Net, x: Tensor) -> Tensor:
    state = torch.zeros(1, x.shape[0], 4).to(x.device).to(x.dtype)
    return net.gru(x.flatten(2).transpose(1, 2), state)[0][:, -1]


def masked(_net: Net, x: Tensor) -> Tensor:
    q = x.flatten(2)
    scores = (q @ q.mT).masked_fill(torch.eye(3, dtype=torch.bool), torch.finfo(q.dtype).min)
    return torch.cat([scores.softmax(-1).flatten(1), scores.amax(-1) / torch.finfo(q.dtype).max], 1)


def assigned(_net: Net, x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 3)
    out[:, 1] = x.mean((1, 2, 3))
    return out.unsqueeze_(1).squeeze(1) + torch.tensor([1.0, 2.0, 3.0])


def through_numpy_memory(_net: Net, x: Tensor) -> Tensor:
    weights = torch.from_numpy(np.ones(3, np.float32))
    weights[0] += x.new_ones(()) / 3
    return x.mean((2, 3)) * weights


def in_double(_net: Net, x: Tensor) -> Tensor:
    dtypes = [x.dtype, (x * 2).dtype, x.double().dtype, (x * x.double()).dtype, (x * x.double()).float().dtype]
    assert dtypes == [torch.float32, torch.float32, torch.float64, torch.float64, torch.float32]
    return (x * x.double()).float().mean((2, 3))


def conjugated(_net: Net, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(x)
    return (spectrum.conj() * spectrum * 1j).imag.mean((2, 3))


def signless(_net: Net, x: Tensor) -> Tensor:
    return (x.view(torch.int32) & 0x7FFFFFFF).view(torch.float32).mean((2, 3))


OUTSIDE = torch.full((6, 6), 0.3)  # no part of a network


NETWORKS = {
    "tensor from outside": Net(lambda _, x: (x @ OUTSIDE).mean((2, 3))),
    "constant": Net(constant, conv=nn.Conv2d(3, 4, 3)),
    "cell": Net(cell, cell=nn.GRUCell(3, 5)),
    "lstm": Net(
        lambda net, x: net.lstm(x.flatten(2).mT)[0][:, -1], lstm=nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    ),
    "own state": Net(own_state, gru=nn.GRU(3, 4, batch_first=True)),
    "cast to float": Net(lambda net, x: net.conv(x.float()).float().mean((2, 3)), conv=nn.Conv2d(3, 4, 3)),
    "type of the input": Net(lambda _, x: x.mean((2, 3)) + torch.arange(3).type_as(x) / 7),
    "factories": Net(lambda _, x: x.mean((2, 3)) * torch.linspace(0, 1, 3) * torch.arange(0, 1, 0.4)),
    "masked": Net(masked),
    "assigned": Net(assigned),
    "numpy's memory": Net(through_numpy_memory),
    "in double": Net(in_double),
    "bits": Net(signless),
    "fourier": Net(lambda _, x: torch.fft.rfft2(x).abs().mean((2, 3))),
    "conjugate": Net(conjugated),
    "signal": Net(lambda _, x: functional.max_pool1d(x.flatten(2), 2).mean(-1) / 3),
    "sorted": Net(lambda _, x: x.flatten(2).sort(-1).indices[:, :, :2].float().mean(-1) / 3),
    "encoder": Net(
        lambda net, x: net.layer(x.flatten(2).mT).mean(1),
        layer=nn.TransformerEncoderLayer(3, 1, 8, batch_first=True),
    ),
}


def in_float64(network: nn.Module) -> tuple[Tensor, dict[str, Array]]:
    """Return the network's output in float64, and those of its layers."""
    layers: dict[str, Array] = {}
    arguments = Arguments((image(),))
    output = run_in_float64(network, arguments, lambda record: layers.update({record.name: record.value.copy()}))
    return output, layers


def image() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_is_more_precise(name: str) -> None:
    """The network runs in float64, and its results differ from those in float32 by float32's rounding."""
    network = NETWORKS[name].eval()
    float32 = run(network, Arguments((image(),)))
    float64, _ = in_float64(network)
    assert (float32.dtype, float64.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(float32.double(), float64, rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)
    assert bool((float64 != float64.float()).any())


def test_integers_remain_integers() -> None:
    """Inputs of integers keep their type beside those of numbers in float64."""

    class Embedding(nn.Embedding):
        def forward(self, indices: Tensor, scale: Tensor) -> Tensor:
            return super().forward(indices).mean(1) * scale / 3

    network = Embedding(5, 4)
    indices, scale = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 1)
    output = run_in_float64(network, Arguments((indices,), {"scale": scale}))
    expected = network.weight.double()[indices].mean(1) / 3
    torch.testing.assert_close(output, expected.detach(), rtol=1e-15, atol=0)


def test_a_constant_is_not_rounded() -> None:
    """A constant made in forward has the digits of float64."""
    network = Net(lambda _, x: x.new_zeros(x.shape[0], 1) + torch.ones(1) / 3)
    output, _ = in_float64(network)
    assert output.tolist() == [[1 / 3], [1 / 3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_to_half_rounds(dtype: torch.dtype) -> None:
    """A cast to float16 or bfloat16 rounds in the float64 run, too, because the file rounds there."""
    network = Net(lambda _, x: (x.to(dtype).float() - x).mean((2, 3)))
    output, _ = in_float64(network)
    x = image().double()
    torch.testing.assert_close(output, (x.to(dtype).double() - x).mean((2, 3)), rtol=0, atol=0)


def test_layers_of_half() -> None:
    """Layers that compute in bfloat16 are recorded, with the values of the float32 run."""
    network = Net(lambda net, x: net.act(x.bfloat16()).float().mean((2, 3)), act=nn.ReLU())
    _, layers = in_float64(network)
    np.testing.assert_array_equal(layers["act"], image().bfloat16().relu().float())


def test_plain_attributes() -> None:
    """Tensors in plain attributes hold float64 numbers in the copy; the original is unchanged."""
    network = Net(lambda net, x: x[:, :1, 0, 0] * 0 + net.constants["weights"][0] / 3)
    network.constants = {"weights": [torch.ones(1)]}
    output, _ = in_float64(network)
    assert output.tolist() == [[1 / 3], [1 / 3]]
    assert network.constants["weights"][0].dtype == torch.float32


def test_an_in_place_layer() -> None:
    """The output of a layer is recorded before and after another layer overwrites it, also through a view."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(inplace=True), nn.Unflatten(1, (4, 16)))
    _, outputs = in_float64(layers)
    assert outputs["0"].min() < 0
    np.testing.assert_array_equal(outputs["2"], outputs["0"].reshape(2, -1).clip(0))
    np.testing.assert_array_equal(outputs["3"].reshape(2, -1), outputs["2"])


def test_buffers_are_written_in_the_copy_only() -> None:
    """A forward that writes to a part of a buffer reads it back in float64; the network's own buffer is unchanged."""

    def forward(net: Net, x: Tensor) -> Tensor:
        net.norm.running_mean[1:] = torch.ones(2) / 3
        return net.norm.running_mean.expand(x.shape[0], 3) * 1

    network = Net(forward, norm=nn.BatchNorm2d(3))
    output, _ = in_float64(network)
    assert output[0].tolist() == [0, 1 / 3, 1 / 3]
    assert network.norm.running_mean.tolist() == [0, 0, 0]  # type: ignore[union-attr, operator]


def test_parameters_remain_parameters() -> None:
    """A forward sees parameters where the network has parameters."""
    network = Net(lambda net, x: x[:, :1, 0, 0] * isinstance(net.conv.weight, nn.Parameter), conv=nn.Conv2d(3, 4, 3))
    output, _ = in_float64(network)
    assert bool(output.all())


def test_an_operation_without_float64() -> None:
    """An operation of another library that only accepts float32 is computed in float32."""

    @torch.library.custom_op("zoonnx_test::third", mutates_args=())
    def third(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return x / 3

    output, _ = in_float64(Net(lambda _, x: third(x).mean((2, 3))))
    assert output.dtype == torch.float64
    torch.testing.assert_close(output.float(), (image() / 3).mean((2, 3)))


@pytest.mark.parametrize("name", ["constant", "cell", "cast to float", "masked"])
def test_is_exported(name: str, tmp_path: Path) -> None:
    """The network is exported, and its float32 error is measured."""
    torch.manual_seed(0)
    exported = export_model(NETWORKS[name].eval(), ExportSettings(to=tmp_path, name="n", raw=True), preprocessing=SMALL)
    assert max(check.reference_error for check in exported.manifest.parity.checks) > 0
