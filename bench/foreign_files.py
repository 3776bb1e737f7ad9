"""Layer names in files that zoonnx did not export: every path that a server names is compared with PyTorch's hooks.

Each backbone is exported by torch.onnx alone: as by default, with a dynamic batch, and by the TorchScript exporter. A
path is right if the value that the index names equals what the module's forward hook saw. Layers that the index leaves
out are counted. The tests compare small networks in these and in other ways.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from bench.common import machine, table, write
from export.convert.torch_exporter import silence_exporter
from export.tracing.arguments import Arguments
from export.tracing.trace import TensorRecord, trace
from protos import introspect
from serve.repository.layer_index import read_layers
from zoo.catalog import create_model
from zoo.networks.random_init import randomize_constant_scales

RELATIVE_TOLERANCE = 2e-3  # of the largest number of a layer
NETWORKS = {
    "resnet18": 64,
    "resnest14d": 64,
    "densenet121": 64,
    "inception_v3": 96,
    "dla46_c": 64,
    "hrnet_w18_small": 64,
    "res2net50_14w_8s": 64,
    "efficientnet_b0": 64,
    "mobilenetv3_small_050": 64,
    "repvgg_a0": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 64,
    "levit_128s": 64,
    "pit_ti_224": 64,
    "xcit_nano_12_p16_224": 64,
    "mixer_s32_224": 64,
    "edgenext_xx_small": 64,
}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """The paths of one file.

    Attributes:
        right: Paths whose value is the module's output.
        wrong: Paths whose value is not, or that no module call has, each with the reason.
        left_out: Layers that PyTorch computed and the index does not name; modules that return their input do not
            count.
    """

    right: tuple[str, ...]
    wrong: Mapping[str, str]
    left_out: tuple[str, ...]


def export_dynamo(network: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Export with torch.onnx as most users do."""
    _export(network, x, path, dynamo=True)


def export_unoptimised(network: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Export without torch.onnx's optimiser."""
    _export(network, x, path, dynamo=True, optimize=False)


def export_dynamic(network: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Export with a dynamic batch."""
    _export(network, x, path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def export_torchscript(network: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Export with the TorchScript exporter, which writes scopes into the names of nodes."""
    _export(network, x, path, dynamo=False)


def export_fused(network: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Export, and let onnxruntime fuse operations and write the file again."""
    plain = path.with_name("plain.onnx")
    export_dynamo(network, x, plain)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])


def _export(network: nn.Module, x: torch.Tensor, path: Path, **options: Any) -> None:
    with silence_exporter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, verbose=False, external_data=False, **options)


EXPORTS: Mapping[str, Callable[[nn.Module, torch.Tensor, Path], None]] = {
    "dynamo": export_dynamo,
    "unoptimised": export_unoptimised,
    "dynamic": export_dynamic,
    "fused": export_fused,
    "torchscript": export_torchscript,
}


def compare(network: nn.Module, x: torch.Tensor, path: Path) -> Comparison:
    """Compare each module path that the index of the file `path` has with the hooks of `network`."""
    index = read_layers(path, {})
    named = index.layers if index.names == introspect.MODULE_PATHS else {}
    records = {record.name: record for record in trace(network, Arguments((x,)))[1] if record.path}
    arrays = layer_arrays(path, x.numpy(), {layer.value for layer in named.values()})
    reasons = {name: _difference(records.get(name), arrays[layer.value]) for name, layer in named.items()}
    return Comparison(
        right=tuple(name for name, reason in reasons.items() if not reason),
        wrong={name: reason for name, reason in reasons.items() if reason},
        left_out=tuple(name for name, record in records.items() if name not in named and not record.is_passthrough),
    )


def layer_arrays(path: Path, x: Array, values: set[str]) -> dict[str, Array]:
    """Return values of the graph by name, computed by onnxruntime without further optimisation."""
    model = onnx.load(path)
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in sorted(values - outputs))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = sorted(values)
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True)) if names else {}


def _difference(record: TensorRecord | None, actual: Array) -> str:
    """Return how a value differs from a module's output; empty if it does not."""
    if record is None:
        return "PyTorch has no such call"
    expected = record.value
    if actual.shape != expected.shape:
        return f"the shape is {actual.shape}, not {expected.shape}"
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0)
    scale = np.abs(expected).max(initial=0)
    return "" if error <= RELATIVE_TOLERANCE * scale else f"the error is {error:.1e} of {scale:.1e}"


def compare_exported(network: nn.Module, x: torch.Tensor, how: str) -> Comparison:
    """Export `network` as `how` says into a temporary folder, and compare."""
    network.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        EXPORTS[how](network, x, path)
        return compare(network, x, path)


def backbone(name: str, size: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a backbone with random weights and no branch that is zero, and images for it."""
    torch.manual_seed(0)
    network = create_model(name, img_size=(size, size)).eval()
    randomize_constant_scales(network)
    return network, torch.randn(2, 3, size, size)


WAYS = ("dynamo", "dynamic", "torchscript")


def main() -> None:
    """Compare the backbones, and write bench/results/foreign_files.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(name, how) for name in options.names for how in WAYS]
    write("foreign_files", results, page(results))


def measure(name: str, how: str) -> dict[str, Any]:
    """Return the numbers of right, wrong and left out layers of a backbone; or the exporter's error."""
    network, x = backbone(name, NETWORKS[name])
    try:
        comparison = compare_exported(network, x, how)
    except Exception as error:  # noqa: BLE001 - the TorchScript exporter raises errors of many kinds
        return {"name": name, "how": how, "failed": str(error).strip().split("\n")[0][:120]}
    counts = {"right": len(comparison.right), "wrong": comparison.wrong, "left_out": len(comparison.left_out)}
    return {"name": name, "how": how, "failed": "", **counts}


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as Markdown."""
    done = [result for result in results if not result["failed"]]
    right, wrong = sum(result["right"] for result in done), sum(len(result["wrong"]) for result in done)
    failures = "".join(f"- {each['name']}, {each['how']}: {each['failed']}\n" for each in results if each["failed"])
    rows = [(each["name"], each["how"], each["right"], len(each["wrong"]), each["left_out"]) for each in done]
    return (
        f"# Layer names in files of torch.onnx\n\nMeasured on {machine()['date']}: of {right + wrong:,} layers that "
        f"the index names in {len(done)} files, {wrong} are wrong.\n\n"
        + table(("network", "export", "right", "wrong", "left out"), rows)
        + (f"\nNot exported by torch.onnx:\n\n{failures}" if failures else "")
    )


if __name__ == "__main__":
    main()
