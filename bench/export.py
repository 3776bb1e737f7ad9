"""What the checks of an export cost: `zoonnx export`'s whole way against a bare torch.onnx.export of the same network.

Both are measured in CPU seconds of one thread, turn by turn in one process, so that other load disturbs them little.
Each network has random weights of which no branch is zero.
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
from export.convert.convert import silence_exporter
from zoo import LoadedNetwork, load_network

NETS = ("convnet4", "resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224")
TURNS = 3
ALLOWED = 2.5
HEAD = ("network", "bare, s", "with every check, s", "ratio")


def main() -> None:
    """Measure the networks, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("networks", nargs="*", default=NETS, metavar="NET")
    parser.add_argument("--turns", type=int, default=TURNS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bare_export(load_network("convnet4"))  # the first export also imports
    results = {name: measure(load_network(name), options.turns) for name in options.networks}
    common.write("export", results, page(results))


def measure(loaded: LoadedNetwork, turns: int) -> dict[str, Any]:
    """CPU seconds of both, and their ratios, turn by turn."""
    bare_export(loaded)  # what torch keeps of a network, neither way pays for
    pairs = [(bare_export(loaded), checked_export(loaded)) for _ in range(turns)]
    bare, checked = ([pair[index] for pair in pairs] for index in (0, 1))
    return {
        "bare_s": common.summary(bare),
        "checked_s": common.summary(checked),
        "ratio": common.ratios(checked, bare),
    }


def page(results: dict[str, Any]) -> str:
    """The page for people."""
    rows = [
        (name, common.shown(each["bare_s"], 2), common.shown(each["checked_s"], 2), common.shown(each["ratio"], 2))
        for name, each in results.items()
    ]
    median = statistics.median(each["ratio"]["median"] for each in results.values())
    return (
        "# Export, with every check\n\n"
        + common.machine_line()
        + common.table(HEAD, rows)
        + f"\nThe median ratio is {median:.2f}; at most {ALLOWED} is asked for. CPU seconds, one thread.\n"
    )


def bare_export(loaded: LoadedNetwork) -> float:
    """CPU seconds of torch.onnx.export alone, with a free batch; without gradients, with which it refuses MaxViT."""
    loaded.network.requires_grad_(False)
    example = torch.zeros(2, *loaded.preprocessing.input_size)
    batch = torch.export.Dim("batch", min=1)
    with silence_exporter(), seconds() as spent:
        torch.onnx.export(
            loaded.network,
            (example,),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    return spent[0]


def checked_export(loaded: LoadedNetwork) -> float:
    """CPU seconds of the whole way, the files included."""
    with tempfile.TemporaryDirectory() as folder, seconds() as spent:
        export_model(loaded, ExportSettings(to=Path(folder) / "models", name="network"))
    return spent[0]


@contextlib.contextmanager
def seconds() -> Iterator[list[float]]:
    """Give a list that holds the CPU seconds of the block after it."""
    spent: list[float] = []
    began = time.process_time()
    yield spent
    spent.append(time.process_time() - began)


if __name__ == "__main__":
    main()
