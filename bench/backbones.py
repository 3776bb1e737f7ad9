"""Layers over the wire: exports backbones of timm, serves them, and compares every layer with PyTorch.

Each network has random weights, and no branch that is zero. A server in its own process serves the export; tritonclient
requests each layer of the map that is in the file, for a batch of two. The results are compared with forward hooks on
the network as timm builds it, before the export prepares it. Each network has a process of its own; networks that are
already in bench/results/backbones.json are skipped, so that an interrupted run can be continued.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc

from bench.common import RESULTS, ROOT, machine, table, write
from bench.networks import MatrixNetwork
from export import ExportSettings, export_model
from export.convert.prepare import prepare
from export.errors import ExportError
from export.names import IMAGE
from export.tracing.arguments import Arguments
from export.tracing.trace import trace
from protos import manifest
from serve.client.sync import Client
from serve.process import serve
from zoo.catalog import create_model
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.random_init import randomize_constant_scales
from zoo.runs.load import LoadedNetwork, WeightsSource

NETWORKS = (
    MatrixNetwork("cs3darknet_focus_s", "CSPNet", 64),
    MatrixNetwork("cspnext_s", "CSPNeXt", 64),
    MatrixNetwork("convmixer_768_32", "ConvMixer", 64),
    MatrixNetwork("crossvit_9_240", "CrossViT", 240),
    MatrixNetwork("davit_tiny", "DaViT", 64),
    MatrixNetwork("efficientformerv2_s0", "EfficientFormer v2", 224),
    MatrixNetwork("efficientvim_m1", "EfficientViM", 64),
    MatrixNetwork("efficientvit_b0", "EfficientViT (MIT)", 64),
    MatrixNetwork("efficientvit_m0", "EfficientViT (MSRA)", 64),
    MatrixNetwork("fasternet_t0", "FasterNet", 64),
    MatrixNetwork("focalnet_tiny_srf", "FocalNet", 64),
    MatrixNetwork("gcvit_xxtiny", "GCViT", 64),
    MatrixNetwork("hardcorenas_a", "HardCoRe-NAS", 64),
    MatrixNetwork("hgnetv2_b0", "HGNet v2", 64),
    MatrixNetwork("hiera_tiny_224", "Hiera", 224),
    MatrixNetwork("inception_next_atto", "InceptionNeXt", 64),
    MatrixNetwork("inception_v4", "Inception v4", 96),
    MatrixNetwork("legacy_xception", "Xception (legacy)", 96),
    MatrixNetwork("mambaout_femto", "MambaOut", 64),
    MatrixNetwork("caformer_s18", "CAFormer", 64),
    MatrixNetwork("mvitv2_tiny", "MViT v2", 64),
    MatrixNetwork("nest_tiny", "NesT", 64),
    MatrixNetwork("nextvit_small", "Next-ViT", 64),
    MatrixNetwork("pvt_v2_b0", "PVT v2", 64),
    MatrixNetwork("rdnet_tiny", "RDNet", 64),
    MatrixNetwork("repghostnet_050", "RepGhostNet", 64),
    MatrixNetwork("repvit_m0_9", "RepViT", 64),
    MatrixNetwork("rexnet_100", "ReXNet", 64),
    MatrixNetwork("legacy_seresnet18", "SENet (legacy)", 64),
    MatrixNetwork("sequencer2d_s", "Sequencer", 64),
    MatrixNetwork("shvit_s1", "SHViT", 64),
    MatrixNetwork("starnet_s1", "StarNet", 64),
    MatrixNetwork("swiftformer_xs", "SwiftFormer", 64),
    MatrixNetwork("swinv2_cr_tiny_224", "Swin v2 (CR)", 64),
    MatrixNetwork("tiny_vit_5m_224", "TinyViT", 64),
    MatrixNetwork("tnt_s_patch16_224", "TNT", 64),
    MatrixNetwork("twins_svt_small", "Twins", 64),
    MatrixNetwork("visformer_tiny", "Visformer", 64),
    MatrixNetwork("volo_d1_224", "VOLO", 64),
    MatrixNetwork("botnet26t_256", "BoTNet", 128),
    MatrixNetwork("convit_tiny", "ConViT", 64),
    MatrixNetwork("eva02_tiny_patch14_224", "EVA-02", 56),
    MatrixNetwork("gmlp_s16_224", "gMLP", 64),
    MatrixNetwork("resmlp_12_224", "ResMLP", 64),
)
ROWS = RESULTS / "backbones.json"
TOLERANCE = 2e-3  # of the largest number of a layer
NOISE_MULTIPLE = 10.0  # of PyTorch's own float32 error, where that is larger: a softmax of large scores is inexact
LAYERS_PER_REQUEST = 64
HEAD = ("network", "family", "input", "layers compared", "wrong", "folded", "not exported", "re-parameterised", "error")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """The results of one network.

    Attributes:
        name: The network's name.
        family: The family that it represents.
        input_size: (C, H, W) of its input.
        failed: The error, if it was not exported or served.
        compared: The number of layers that were requested and compared.
        wrong: How the layers differ from PyTorch's that do.
        folded: The number of layers that the exporter merged into another.
        not_exported: The reasons of layers that are not in the file.
        removed: The number of layers that re-parameterisation removed before that.
        error: The largest error of a layer, relative to the largest number of that layer.
    """

    name: str
    family: str
    input_size: tuple[int, ...] = ()
    failed: str = ""
    compared: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    folded: int = 0
    not_exported: dict[str, str] = field(default_factory=dict)
    removed: int = 0
    error: float = 0.0


def main() -> None:
    """Measure the missing networks, each in its own process, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="measure only these networks, again")
    parser.add_argument("--here", action="store_true", help="measure one network in this process, and print its row")
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(1)
        (network,) = [network for network in NETWORKS if network.name == options.names[0]]
        sys.stdout.write(json.dumps(asdict(measure(network))) + "\n")
        return
    rows = read()
    for network in NETWORKS:
        if network.name in options.names if options.names else network.name not in rows:
            rows[network.name] = measure_apart(network)
            done = [rows[network.name] for network in NETWORKS if network.name in rows]
            write("backbones", [asdict(row) for row in done], page(done))


def read() -> dict[str, Row]:
    """Return the rows that were measured before, by network."""
    if not ROWS.exists():
        return {}
    results = json.loads(ROWS.read_text())["results"]
    return {row["name"]: Row(**{**row, "input_size": tuple(row["input_size"])}) for row in results}


def measure_apart(network: MatrixNetwork) -> Row:
    """Measure a network in a process of its own, which ends with everything that it kept."""
    command = [sys.executable, "-m", "bench.backbones", "--here", network.name]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return Row(network.name, network.family, failed=reason[:400])
    row = json.loads(process.stdout.splitlines()[-1])
    return Row(**{**row, "input_size": tuple(row["input_size"])})


def measure(network: MatrixNetwork) -> Row:
    """Export a network, serve it, and compare every layer with the hooks of the original."""
    loaded = load(network)
    size = loaded.preprocessing.input_size
    images = np.random.default_rng(0).integers(0, 256, (2, *size[1:], size[0]), np.uint8)
    expected, exact = hooked(loaded, images, torch.float32), hooked(loaded, images, torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        try:
            layers = export_model(
                loaded, ExportSettings(to=Path(folder) / "models", name="backbone")
            ).manifest.layer_map.layers
        except ExportError as error:
            return Row(network.name, network.family, size, failed=" ".join(str(error).split())[:400])
        actual = served(Path(folder) / "models", images)
    differences = {name: relative_error(array, expected[name]) for name, array in actual.items() if name in expected}
    remaining = {path for path, _ in prepare(loaded.network).named_modules()}
    folded = [layer for layer in layers if layer.status == manifest.FOLDED]
    removed = sum(layer.path not in remaining for layer in folded)
    return Row(
        network.name,
        network.family,
        size,
        compared=len(differences),
        wrong={
            name: f"{error:.1e}"
            for name, error in differences.items()
            if not error <= max(TOLERANCE, NOISE_MULTIPLE * relative_error(expected[name], exact[name]))
        },
        folded=len(folded) - removed,
        not_exported={layer.name: layer.reason for layer in layers if layer.status == manifest.NOT_EXPORTED},
        removed=removed,
        error=max(differences.values(), default=0.0),
    )


def load(network: MatrixNetwork) -> LoadedNetwork:
    """Build the network with random weights for its image size."""
    torch.manual_seed(0)
    size = (network.size, network.size) if network.size else None
    model = create_model(network.name, img_size=size).eval()
    randomize_constant_scales(model)
    return LoadedNetwork(
        model, network.name, network.name, (), Preprocessing.from_network(model), WeightsSource("random", seed=0)
    )


def hooked(loaded: LoadedNetwork, images: Array, dtype: torch.dtype) -> dict[str, Array]:
    """Return the output of every module call of the original network by the layer's name, computed in `dtype`."""
    x = loaded.preprocessing.normalise(torch.from_numpy(images), dtype)
    network = copy.deepcopy(loaded.network).to(dtype)
    return {record.name: record.value for record in trace(network, Arguments((x,)))[1] if record.path}


def served(models: Path, images: Array) -> dict[str, Array]:
    """Return every layer in the file as a server in its own process returns it to tritonclient."""
    with serve(models, provider="cpu", start_timeout_s=120) as server:
        with Client(server.url) as client:
            names = [layer.name for layer in client.layers("backbone") if layer.value]
        with tritonclient.grpc.InferenceServerClient(server.url) as triton:
            chunks = [names[start : start + LAYERS_PER_REQUEST] for start in range(0, len(names), LAYERS_PER_REQUEST)]
            return {name: array for chunk in chunks for name, array in request(triton, images, chunk).items()}


def request(triton: Any, images: Array, names: Sequence[str]) -> dict[str, Array]:
    """Return layers for a batch of images."""
    tensor = tritonclient.grpc.InferInput(IMAGE, images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in names]
    result = triton.infer("backbone", [tensor], outputs=outputs)
    return {name: result.as_numpy(name) for name in names}


def relative_error(actual: Array, expected: Array) -> float:
    """Return the largest difference relative to the largest number; infinite for another shape."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = np.abs(expected.astype(np.float64)).max(initial=0.0)
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    return float(error / scale) if scale else float(error)


def page(rows: Sequence[Row]) -> str:
    """Return the results as Markdown."""
    done = [row for row in rows if not row.failed]
    failures = "".join(f"- {row.name}: {row.failed}\n" for row in rows if row.failed)
    wrong = "".join(f"- {row.name}: {name}: {error}\n" for row in done for name, error in row.wrong.items())
    reasons = Counter((row.name, reason) for row in done for reason in row.not_exported.values())
    missing = "".join(f"- {name}: {count}: {reason}\n" for (name, reason), count in reasons.items())
    return (
        f"# Layers over the wire\n\nMeasured on {machine()['date']}: {len(done)} of {len(rows)} backbones were "
        f"exported and served; {sum(row.compared for row in done):,} layers were compared with PyTorch, "
        f"{sum(len(row.wrong) for row in done):,} are wrong.\n\n"
        + table(HEAD, [cells(row) for row in done])
        + (f"\nNot exported or not served:\n\n{failures}" if failures else "")
        + (f"\nWrong, with the error relative to the largest number of the layer:\n\n{wrong}" if wrong else "")
        + (f"\nNot in the file, with the reason:\n\n{missing}" if missing else "")
    )


def cells(row: Row) -> list[object]:
    size = "x".join(map(str, row.input_size))
    counts = [row.compared, len(row.wrong), row.folded, len(row.not_exported), row.removed]
    return [row.name, row.family, size, *counts, f"{row.error:.0e}"]


if __name__ == "__main__":
    main()
