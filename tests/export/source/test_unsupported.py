"""Objects and networks that are rejected because of what they are."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from export import ExportSettings, export_model
from export.errors import ExportError, SourceError, UnsupportedNetworkError
from export.source.module import plain_preprocessing
from export.source.unsupported import require_supported
from zoo import LoadedNetwork

SMALL = plain_preprocessing((3, 8, 8))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def quietly(make: Callable[[], Any]) -> Callable[[], Any]:
    """Suppress the warnings about deprecated parts of PyTorch."""

    def quiet() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return quiet


@quietly
def traced() -> nn.Module:
    layer: nn.Module = torch.jit.trace(small()[0], torch.zeros(1, 3, 8, 8))
    return nn.Sequential(layer, *small()[1:]).eval()


@quietly
def sparse() -> nn.Module:
    network = small()
    network.register_buffer("mask", torch.eye(4).to_sparse())
    return network


@quietly
def sparse_attribute() -> nn.Module:
    network = small()
    network.masks = {"upper": [torch.eye(4).to_sparse()]}  # type: ignore[assignment]
    return network


@quietly
def quantised() -> nn.Module:
    network = nn.Sequential(quantization.QuantStub(), *small(), quantization.DeQuantStub()).eval()
    network.qconfig = quantization.get_default_qconfig("fbgemm")  # type: ignore[assignment]
    quantization.prepare(network, inplace=True)
    network(torch.zeros(1, 3, 8, 8))
    quantization.convert(network, inplace=True)
    return network


@quietly
def simulated() -> nn.Module:
    network = small().train()
    network.qconfig = quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    quantization.prepare_qat(network, inplace=True)
    return network.eval()


@quietly
def captured() -> Any:
    return torch.export.export(small(), (torch.zeros(2, 3, 8, 8),))


def named(name: str) -> nn.Module:
    network = nn.Sequential(small())
    network.add_module(name, nn.Identity())
    return network.eval()


def with_weight(name: str) -> nn.Module:
    network = small()
    network[0].register_parameter(name, nn.Parameter(torch.zeros(1)))
    return network


def in_a_list() -> nn.Module:
    network = small()
    network.blocks = {"first": [nn.Conv2d(3, 3, 1)]}  # type: ignore[assignment]
    return network


SCRIPT = "is TorchScript, which has no Python code to export: pass the module that it was made from"
GRAPH = "is a graph that torch.export captured"
CHARACTERS = "has a quote, a backslash or an unprintable character in its name"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (traced, f"the layer '0' (TopLevelTracedModule) {SCRIPT}"),
        (quietly(lambda: torch.jit.script(small())), f"the network (RecursiveScriptModule) {SCRIPT}"),
        (lambda: captured().module(), GRAPH),
        (lambda: torch.export.unflatten(captured()), GRAPH),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)).eval(), "the tensor '0.weight' has no shape yet"),
        (lambda: small().to("meta"), "the tensor '0.weight' is on the meta device"),
        (sparse, "the tensor 'mask' is sparse"),
        (sparse_attribute, "the tensor 'masks['upper'][0]' is sparse"),
        (quantised, "the layer '0' (Quantize) is quantised by PyTorch"),
        (simulated, "'0.weight_fake_quant' (FusedMovingAvgObsFakeQuantize) is an observer or a simulation"),
        (in_a_list, "'blocks['first'][0]' (Conv2d) is in a plain list or dict"),
        (lambda: named('a"b'), f"the module 'a\"b' {CHARACTERS}"),
        (lambda: named("a\nb"), rf"the module 'a\nb' {CHARACTERS}"),
        (lambda: named("a\0b"), rf"the module 'a\x00b' {CHARACTERS}"),
        (lambda: named("a\\"), r"the module 'a\\' has a quote"),
        (lambda: named("\ud800"), rf"the module '\ud800' {CHARACTERS}"),
        (lambda: with_weight('a"b'), f"the weight 'a\"b' of '0' {CHARACTERS}"),
    ],
)
def test_unsupported(make: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    """A network that cannot be exported is rejected in one line, with the module or tensor, and nothing is written."""
    with pytest.raises(UnsupportedNetworkError) as caught:
        export_model(make(), ExportSettings(to=tmp_path / "models", name="network"), preprocessing=SMALL)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (captured, "it is a ExportedProgram: pass the module that it was made from"),
        (lambda: nn.ReLU, r"it is the class ReLU: pass an instance, such as ReLU\(\)"),
        (lambda: small().state_dict(), "it is a OrderedDict: build the network, load these weights"),
        (lambda: None, "it is a NoneType: pass a torch.nn.Module"),
        (lambda: small().forward, "it is a method: pass a torch.nn.Module"),
    ],
)
def test_no_network(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    """What is no network is rejected with what to pass instead."""
    with pytest.raises(SourceError, match=message):
        export_model(make(), ExportSettings(to=tmp_path / "models", name="network"), preprocessing=SMALL)


def test_a_loaded_network_whose_module_was_replaced(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """A network inside the result of `load_network` is checked as well."""
    loaded = replace(convnet4, network=quantised())
    with pytest.raises(ExportError, match="is quantised by PyTorch"):
        export_model(loaded, ExportSettings(to=tmp_path / "models", name="network"))


def test_a_sharded_network() -> None:
    """A network whose weights are sharded over processes is rejected."""
    group = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=group, rank=0, world_size=1)
    try:
        network = small()
        fully_shard(network, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UnsupportedNetworkError, match="is sharded over processes"):
            require_supported(network)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["it's", "a/b", "a@1", "{x}", "%s", " ", "ä"])
def test_names_that_are_supported(name: str, tmp_path: Path) -> None:
    """A module may have any other characters in its name; its layer has this name in the file."""
    settings = ExportSettings(to=tmp_path, name="network")
    exported = export_model(named(name), settings, preprocessing=SMALL)
    assert name in [layer.name for layer in exported.manifest.layer_map.layers]
