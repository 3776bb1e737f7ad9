"""Measures the cost of an export's checks: `zoonnx export` against torch.onnx.export alone, for the same network.

Both are measured in CPU seconds of one thread, alternating in one process, to reduce the effect of other load. Each
network has random weights, and no branch that is zero.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import common
from export import ExportSettings, export_model
from export.convert.torch_exporter import silence_exporter
from zoo import LoadedNetwork, load_network

NETWORKS = ("convnet4", "resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224")
TURNS = 3
MAX_RATIO = 2.5
HEAD = ("network", "bare, s", "with every check, s", "ratio")


def main() -> None:
    """Measure the networks and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--turns", type=int, default=TURNS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bare_export(load_network("convnet4"))  # the first export also imports
    results = {name: measure(load_network(name), options.turns) for name in options.networks}
    common.write("export", results, page(results))


def measure(loaded: LoadedNetwork, turns: int) -> dict[str, Any]:
    """Return summaries of the CPU seconds of both exports, and of their ratio in each turn."""
    bare_export(loaded)  # torch caches parts of a network at its first export: exclude that from both measurements
    pairs = [(bare_export(loaded), checked_export(loaded)) for _ in range(turns)]
    bare, checked = ([pair[index] for pair in pairs] for index in (0, 1))
    return {
        "bare_s": common.summary(bare),
        "checked_s": common.summary(checked),
        "ratio": common.ratios(checked, bare),
    }


def page(results: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    rows = [
        (name, *(common.format_summary(result[column], 2) for column in ("bare_s", "checked_s", "ratio")))
        for name, result in results.items()
    ]
    median = statistics.median(result["ratio"]["median"] for result in results.values())
    return (
        "# Export, with every check\n\n"
        + common.machine_line()
        + common.table(HEAD, rows)
        + f"\nThe median ratio is {median:.2f}; the limit is {MAX_RATIO}. CPU seconds, one thread.\n"
    )


def bare_export(loaded: LoadedNetwork) -> float:
    """Return the CPU seconds of torch.onnx.export alone, with a dynamic batch.

    Gradients are disabled, because torch.onnx rejects MaxViT with gradients.
    """
    loaded.network.requires_grad_(False)
    example = torch.zeros(2, *loaded.preprocessing.input_size)
    batch = torch.export.Dim("batch", min=1)
    with silence_exporter(), seconds() as cpu_seconds:
        torch.onnx.export(
            loaded.network,
            (example,),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    return cpu_seconds[0]


def checked_export(loaded: LoadedNetwork) -> float:
    """Return the CPU seconds of an export with all checks, including writing the files."""
    with tempfile.TemporaryDirectory() as folder, seconds() as cpu_seconds:
        export_model(loaded, ExportSettings(to=Path(folder) / "models", name="network"))
    return cpu_seconds[0]


@contextlib.contextmanager
def seconds() -> Iterator[list[float]]:
    """Provide a list that holds the CPU seconds of the block after its end."""
    cpu_seconds: list[float] = []
    start = time.process_time()
    yield cpu_seconds
    cpu_seconds.append(time.process_time() - start)


if __name__ == "__main__":
    main()
