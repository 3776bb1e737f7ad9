"""Tests of layers in files that torch.onnx wrote: each path that the index names is what PyTorch's hook sees."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from bench import foreign_files
from bench.foreign_files import Comparison, compare_exported
from protos.keys import PROGRAM_NODE_KEY
from serve.repository.layer_index import read_layers
from serve.repository.source_lines import returns_several, uses_part
from tests.serve.repository import odd_networks
from tests.serve.repository.odd_networks import NETWORKS, SHAPE

# The file does not have what tells these apart from a module that returns one tensor.
UNKNOWABLE = {"last_of_a_list": {"features"}, "remembered_value": {"memory"}}
# The TorchScript exporter has no translation of an operation of these.
NOT_IN_TORCHSCRIPT = ("torch_attention", "swapped_twice")
OTHER_WAYS = ("stem_of_three", "shared_conv_then_norm", "basic_blocks", "recurrent_cell", "layer_on_a_constant")


def compared(build: Callable[[], nn.Module], how: str) -> Comparison:
    torch.manual_seed(0)
    return compare_exported(build(), torch.randn(SHAPE), how)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_path_is_wrong(name: str) -> None:
    """torch.onnx's optimised file has a path only for values that are the module's output."""
    comparison = compared(NETWORKS[name], "dynamo")
    assert set(comparison.wrong) == UNKNOWABLE.get(name, set()), comparison.wrong


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NOT_IN_TORCHSCRIPT])
def test_no_path_of_torchscript_is_wrong(name: str) -> None:
    """The names of the TorchScript exporter's nodes become paths only where they are certain."""
    assert compared(NETWORKS[name], "torchscript").wrong == {}


@pytest.mark.parametrize("how", ["unoptimised", "dynamic", "fused"])
@pytest.mark.parametrize("name", OTHER_WAYS)
def test_no_path_of_other_files_is_wrong(name: str, how: str) -> None:
    """Files that are not optimised, have a dynamic batch, or were optimised by onnxruntime have no wrong path."""
    assert compared(NETWORKS[name], how).wrong == {}


@pytest.mark.parametrize(
    ("build", "how", "right"),
    [
        (odd_networks.stem_of_three, "dynamo", "0.0 0.1 1 2 3"),
        (odd_networks.stem_of_three, "unoptimised", "0.0 0.1 0.2 0 1 2 3"),
        (odd_networks.scaled_container, "dynamo", "0.0 0.1 0 1.0.0 1.0 1 2"),
        (odd_networks.shared_activation, "dynamo", "a act b act@1"),
        (odd_networks.shared_activation, "torchscript", "a act b"),
        (odd_networks.loop_of_one_block, "torchscript", "block.0 block.1 block.0@1 block.0@2 head"),
        (odd_networks.loop_of_one_layer, "dynamo", "layer layer@1 layer@2 head"),
        (odd_networks.basic_blocks, "torchscript", "0 1.relu 1 2.relu 2 3 4 5"),
        (odd_networks.attention, "dynamo", "norm attn.qkv attn.proj attn head"),
        (odd_networks.module_in_two_places, "torchscript", "0.conv 0 0.conv@1 1 2"),
        (odd_networks.uncalled_containers, "torchscript", "parts.conv parts.norm nest.0.0"),
        (odd_networks.identity_blocks, "dynamo", "0 2.0 2 4 6"),
    ],
)
def test_names(build: Callable[[], nn.Module], how: str, right: str) -> None:
    """Layers are listed in the order in which calls return; a second call has `@1`, as in a file of zoonnx."""
    assert " ".join(compared(build, how).right) == right


def test_layers_of_residual_blocks() -> None:
    """In an optimised file, all layers of residual blocks have paths but convolutions that were merged into norms."""
    comparison = compared(odd_networks.basic_blocks, "dynamo")
    assert comparison.left_out == ("1.conv1", "1.conv2", "2.conv1", "2.conv2")
    assert len(comparison.right) == 14


@pytest.mark.parametrize(
    ("name", "how", "right"),
    [("resnest14d", "dynamo", 72), ("vit_tiny_patch16_224", "dynamo", 125), ("pit_ti_224", "torchscript", 102)],
)
def test_backbones(name: str, how: str, right: int) -> None:
    """Backbones of timm have no wrong path."""
    comparison = compare_exported(*foreign_files.backbone(name, 64), how)
    assert (comparison.wrong, len(comparison.right)) == ({}, right)


@pytest.mark.slow
@pytest.mark.parametrize("how", foreign_files.WAYS)
@pytest.mark.parametrize("name", foreign_files.NETWORKS)
def test_every_backbone(name: str, how: str) -> None:
    """Backbones of many families have no wrong path, whichever exporter wrote the file."""
    result = foreign_files.measure(name, how)
    assert result["failed"] or result["wrong"] == {}


def test_without_the_program(tmp_path: Path) -> None:
    """A file that has the modules of its nodes, but not what they computed in PyTorch, has no certain module output."""
    path = tmp_path / "model.onnx"
    foreign_files.export_dynamo(odd_networks.scaled_container().eval(), torch.randn(SHAPE), path)
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key != PROGRAM_NODE_KEY]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)
    assert set(read_layers(path, {}).layers) <= {"2", *(node.name for node in model.graph.node)}


@pytest.mark.parametrize(
    ("line", "is_part"),
    [
        ("x = self.block(x)", False),
        ("x, size = self.block(x, size)", True),
        ("attended, _ = self.attn(", True),
        ("q, k, v = self.qkv(x).chunk(3, dim=-1)", False),
        ("return self.head(self.pair(x)[1])", True),
        ("x = x + self.mlp(self.norm(x))", False),
        ("if (", False),
    ],
)
def test_lines_that_use_a_part(line: str, is_part: bool) -> None:
    """A line that unpacks or indexes the result of a call says that the module returns several values."""
    assert uses_part(line) == is_part


@pytest.mark.parametrize(
    ("line", "is_several"),
    [("return x", False), ("return a, b", True), ('return {"a": self.a(x),', True), ("x = a, b", False)],
)
def test_lines_that_return_several(line: str, is_several: bool) -> None:
    """A line that returns a tuple or a dictionary returns several values."""
    assert returns_several(line) == is_several
