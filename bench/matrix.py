"""The export matrix: exports every network of bench/networks.py with all checks, and records the results.

Each network has random weights, and no branch that is zero. Networks that are already in bench/results/matrix.json are
skipped, so that an interrupted run can be continued; `--again` measures them again. The page is docs/matrix.md.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.common import RESULTS, ROOT, machine, table
from bench.export import bare_export
from bench.networks import NETWORKS, MatrixNetwork
from export import Exported, ExportSettings, export_model
from export.convert.prepare import prepare
from export.errors import ExportError
from export.variants.runner import make_variants, plan
from export.variants.settings import VariantSettings
from protos import manifest
from zoo.catalog import create_model
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.random_init import randomize_constant_scales
from zoo.runs.load import LoadedNetwork, WeightsSource

ROWS = RESULTS / "matrix.json"
PAGE = ROOT / "docs" / "matrix.md"
STATUSES = {"exact": "exact", "alias": "alias", "folded": "folded", "not_exported": "not exported"}
HEAD = (
    "network",
    "family",
    "input",
    "seconds",
    "times bare",
    "MB",
    "seconds at 224",
    "times bare at 224",
    "MB at 224",
    "nodes",
    "parity",
    "module outputs verified",
    "other values verified",
    *STATUSES.values(),
    "modules accounted for",
    "int8",
)
LARGE = 224  # height and width of the images of ImageNet
BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Cost:
    """The cost of an export with all checks.

    Attributes:
        seconds: CPU time of the export.
        bare_seconds: CPU time of torch.onnx.export alone.
        memory_mb: The largest resident memory of a process that exports the network; 0 if it was not measured.
    """

    seconds: float = 0.0
    bare_seconds: float = 0.0
    memory_mb: int = 0

    @property
    def ratio(self) -> float:
        return self.seconds / self.bare_seconds

    @property
    def cells(self) -> tuple[str, str, str]:
        if not self.seconds:
            return "", "", ""
        return f"{self.seconds:.1f}", f"{self.ratio:.1f}", f"{self.memory_mb:,}" if self.memory_mb else ""


@dataclass(frozen=True)
class Row:
    """The results of one network.

    Attributes:
        name: The network's name.
        family: The family that it represents.
        input_size: (C, H, W) of its input.
        refused: The error of the export, if it failed.
        cost: The cost of the export at this size.
        large: The cost at LARGE; the same as `cost` if that is the size of the input.
        nodes: The number of nodes of the graph.
        parity: The largest error of an output, as a share of its tolerance.
        module_outputs: The number of values that are the output of a module.
        module_outputs_verified: How many of them have a verified shape.
        other_values: The number of other values.
        other_values_verified: How many of them have a verified shape.
        layers: The number of layers by status.
        not_exported: The reason for each layer that is not in the file.
        called: The number of modules that PyTorch called.
        unaccounted: The called modules that are not in the layer map.
        int8: The result of the int8 variant; empty if it was not tried.
    """

    name: str
    family: str
    input_size: tuple[int, ...]
    refused: str = ""
    cost: Cost = Cost()
    large: Cost = Cost()
    nodes: int = 0
    parity: float = 0.0
    module_outputs: int = 0
    module_outputs_verified: int = 0
    other_values: int = 0
    other_values_verified: int = 0
    layers: dict[str, int] = field(default_factory=dict)
    not_exported: dict[str, str] = field(default_factory=dict)
    called: int = 0
    unaccounted: tuple[str, ...] = ()
    int8: str = ""


def main() -> None:
    """Measure the missing networks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="only these networks")
    parser.add_argument(
        "--again",
        action="store_true",
        help="also export networks that were measured before; their int8 results are kept",
    )
    parser.add_argument("--int8", action="store_true", help="also make the int8 variants that are missing (takes long)")
    parser.add_argument(
        "--large", action="store_true", help=f"also measure the cost at {LARGE}x{LARGE} where it is missing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read()
    selected = [network for network in NETWORKS if not options.names or network.name in options.names]
    export_networks([network for network in selected if options.again or network.name not in rows], rows)
    if options.large:
        measure_large([network for network in selected if needs_large(network, rows[network.name])], rows)
    if options.int8:
        try_int8(
            [network for network in selected if not rows[network.name].int8 and not rows[network.name].refused], rows
        )
    PAGE.write_text(page([rows[network.name] for network in NETWORKS if network.name in rows]))


def export_networks(networks: Sequence[MatrixNetwork], rows: dict[str, Row]) -> None:
    """Measure the networks, and write each row as soon as it is complete. Existing int8 results are kept."""
    for index, network in enumerate(networks, 1):
        row, before = apart(measure, network), rows.get(network.name)
        large = row.cost if row.input_size[1:] == (LARGE, LARGE) else Cost()
        rows[network.name] = replace(row, int8=before.int8 if before else "", large=large)
        write(rows)
        print_line(f"{index} of {len(networks)}  {brief(rows[network.name])}")


def needs_large(network: MatrixNetwork, row: Row) -> bool:
    """Return whether the cost at LARGE is missing; it is not measured for networks of one size."""
    return network.size is not None and network.size < LARGE and not row.refused and not row.large.memory_mb


def measure_large(networks: Sequence[MatrixNetwork], rows: dict[str, Row]) -> None:
    """Add the cost at LARGE to each network's row, and write it as soon as it is complete."""
    for index, network in enumerate(networks, 1):
        large = apart(measure, replace(network, size=LARGE))
        rows[network.name] = replace(rows[network.name], large=large.cost)
        write(rows)
        print_line(
            f"{index} of {len(networks)}  {network.name} at {LARGE}: {' '.join(large.cost.cells) or large.refused}"
        )


def apart(measurement: Callable[[MatrixNetwork], Row], network: MatrixNetwork) -> Row:
    """Return the result of a measurement in a process of its own, whose memory no other network has used."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as process:
        return process.submit(measurement, network).result()


def try_int8(networks: Sequence[MatrixNetwork], rows: dict[str, Row]) -> None:
    """Add the result of each network's int8 variant to its row, and write it as soon as it is complete."""
    for index, network in enumerate(networks, 1):
        rows[network.name] = replace(rows[network.name], int8=int8_verdict(network))
        write(rows)
        print_line(f"{index} of {len(networks)}  {network.name}: int8 {rows[network.name].int8}")


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def measure(network: MatrixNetwork) -> Row:
    """Export `network` with all checks into a temporary folder, and with torch.onnx alone."""
    loaded = load(network)
    size = loaded.preprocessing.input_size
    try:
        bare_export(loaded)  # torch caches parts of a network at its first export: exclude that from both measurements
        with tempfile.TemporaryDirectory() as folder:
            settings = ExportSettings(to=Path(folder) / "models", name=network.name)
            checked_seconds, exported = seconds(lambda: export_model(loaded, settings))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_MAXRSS
        bare_seconds = bare_export(loaded)
    except (ExportError, torch.onnx.errors.OnnxExporterError) as error:
        return Row(network.name, network.family, size, refused=" ".join(str(error).split())[:400])
    cost = Cost(round(checked_seconds, 2), round(bare_seconds, 2), round(memory / 1e6))
    return to_row(network, loaded, exported, cost)


def int8_verdict(network: MatrixNetwork) -> str:
    """Return whether the int8 variant is accepted, its lowest SQNR of an output, and its speedup over fp32."""
    loaded = load(network)
    with tempfile.TemporaryDirectory() as folder:
        planned = plan(loaded, Path(folder) / "models", network.name, VariantSettings(("int8",)))
        exported = export_model(loaded, ExportSettings(to=Path(folder) / "models", name=network.name))
        (outcome,) = make_variants(planned, exported.folder)
    verdict = "kept" if outcome.verdict.accepted else "refused"
    if outcome.measured is None:
        return f"{verdict}: {outcome.verdict.reasons[0]}"
    speed = f", {outcome.measured.latency.speedup:.1f}x" if outcome.measured.latency else ""
    return f"{verdict}: {outcome.measured.output_db:.0f} dB{speed}"


def load(network: MatrixNetwork) -> LoadedNetwork:
    """Build the network with random weights for the image size of the matrix."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(network.name, img_size=(network.size, network.size) if network.size else None)
        randomize_constant_scales(model)
    return LoadedNetwork(
        model.eval(), network.name, network.name, (), Preprocessing.from_network(model), WeightsSource("random", seed=0)
    )


def to_row(network: MatrixNetwork, loaded: LoadedNetwork, exported: Exported, cost: Cost) -> Row:
    verified = exported.manifest
    layers = verified.layer_map.layers
    called = called_modules(prepare(loaded.network), loaded.preprocessing)
    names = manifest.LayerStatus.Name
    return Row(
        network.name,
        network.family,
        loaded.preprocessing.input_size,
        cost=cost,
        nodes=exported.nodes,
        parity=max(check.max_abs_error / (check.tolerance or 1) for check in verified.parity.checks),
        module_outputs=verified.shapes.module_outputs,
        module_outputs_verified=verified.shapes.module_outputs_verified,
        other_values=verified.shapes.other_values,
        other_values_verified=verified.shapes.other_values_verified,
        layers=dict(Counter(names(layer.status).lower() for layer in layers)),
        not_exported={layer.name: layer.reason for layer in layers if layer.status == manifest.NOT_EXPORTED},
        called=len(called),
        unaccounted=tuple(sorted(called - {layer.path for layer in layers})),
    )


def called_modules(network: nn.Module, preprocessing: Preprocessing) -> set[str]:
    """Return the paths of the modules that a forward calls and that return a tensor, without the network itself."""
    called: set[str] = set()

    def listener(path: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: called.add(path) if holds_tensor(output) else None

    handles = [module.register_forward_hook(listener(path)) for path, module in network.named_modules() if path]
    with torch.no_grad():
        network(torch.zeros(2, *preprocessing.input_size))
    for handle in handles:
        handle.remove()
    return called


def holds_tensor(output: Any) -> bool:
    values = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return isinstance(output, torch.Tensor) or any(holds_tensor(value) for value in values)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of this process, which exclude other work on the machine, and the result of `work`."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def read() -> dict[str, Row]:
    """Return the rows that were measured before, by network."""
    if not ROWS.exists():
        return {}
    types = {"input_size": tuple, "unaccounted": tuple, "cost": to_cost, "large": to_cost}
    rows = [
        Row(**{name: types.get(name, as_it_is)(value) for name, value in fields.items()})
        for fields in json.loads(ROWS.read_text())["results"]
    ]
    return {row.name: row for row in rows}


def to_cost(fields: dict[str, Any]) -> Cost:
    return Cost(**fields)


def as_it_is(value: Any) -> Any:
    return value


def write(rows: dict[str, Row]) -> None:
    results = [asdict(rows[network.name]) for network in NETWORKS if network.name in rows]
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    ROWS.write_text(json.dumps({**machine(), "results": results}, indent=1) + "\n")


def brief(row: Row) -> str:
    if row.refused:
        return f"{row.name}: refused: {row.refused}"
    verified = f"{row.module_outputs_verified}/{row.module_outputs} + {row.other_values_verified}/{row.other_values}"
    return (
        f"{row.name}: {row.cost.seconds:.1f} s ({row.cost.ratio:.1f}x), {row.cost.memory_mb} MB, {row.nodes} nodes, "
        f"parity {row.parity:.2f}, {verified}, {row.layers}, {len(row.unaccounted)} of {row.called} unaccounted"
    )


def page(rows: Sequence[Row]) -> str:
    """Return the matrix as Markdown."""
    done = [row for row in rows if not row.refused]
    missing = [network.name for network in NETWORKS if network.name not in {row.name for row in rows}]
    refused = "".join(f"- {row.name}: {row.refused}\n" for row in rows if row.refused)
    not_exported = "".join(
        f"- {row.name}: {', '.join(layers)}: {reason}\n" for row in done for reason, layers in reasons(row)
    )
    return "\n".join(
        [
            "# The export matrix",
            "",
            INTRODUCTION,
            "",
            summary(rows, done),
            "",
            table(HEAD, [cells(row) for row in done]),
            *([f"Not measured yet: {', '.join(missing)}.\n"] if missing else []),
            *(["Rejected:", "", refused] if refused else []),
            *(["Not exported, with the reason:", "", not_exported] if not_exported else []),
        ]
    )


INTRODUCTION = """\
Results of `zoonnx export` for every network of the catalog and for backbones of timm, each with random weights and no
branch that is zero. Written by `python -m bench.matrix`; `tests/export/test_matrix.py` checks every row.

*Seconds* are CPU time on one thread; *times bare* is the ratio to `torch.onnx.export` alone, measured right afterwards
(an unmeasured first export precedes both, because torch caches parts of a network). *MB* is the largest resident memory
of a process that does both, with the libraries of PyTorch and onnxruntime. The columns *at 224* are for images of
224x224, and empty for networks that were not measured at this size. *Parity* is the largest error of an output at
batches 1, 2, 3 and 5, as a share of its tolerance. *Verified* shapes are confirmed by the required independent
witnesses, and contradicted by none. *Exact*, *alias*, *folded* and *not exported* count the output tensors of modules:
in the file, in the file under another layer's name, merged into a neighbour, or missing. *int8* is the result of the
variant within the default bounds, with the lowest SQNR of an output on noise (the networks are untrained) and the
speedup at batch 1 on one thread."""


def summary(rows: Sequence[Row], done: Sequence[Row]) -> str:
    ratios = [row.cost.ratio for row in done]
    families = len({row.family for row in done} - {"catalog"})
    called, missing = sum(row.called for row in done), sum(len(row.unaccounted) for row in done)
    known = sum(row.module_outputs_verified + row.other_values_verified for row in done)
    values = sum(row.module_outputs + row.other_values for row in done)
    return (
        f"{len(done)} of {len(rows)} networks, of {families} families besides the catalog, were exported, in a median "
        f"of {statistics.median(ratios):.2f} times the duration of a bare export. {called - missing:,} of {called:,} "
        f"called modules are accounted for. {known:,} of {values:,} shapes are verified; no two witnesses contradict "
        "each other."
    )


def reasons(row: Row) -> list[tuple[str, list[str]]]:
    """Return the layers that are not in the file, by reason."""
    return [
        (reason, [layer for layer, layer_reason in row.not_exported.items() if layer_reason == reason])
        for reason in dict.fromkeys(row.not_exported.values())
    ]


def cells(row: Row) -> list[object]:
    return [
        row.name,
        row.family,
        "x".join(map(str, row.input_size)),
        *row.cost.cells,
        *row.large.cells,
        row.nodes,
        f"{row.parity:.2f}",
        f"{row.module_outputs_verified} of {row.module_outputs}",
        f"{row.other_values_verified} of {row.other_values}",
        *(row.layers.get(status, 0) for status in STATUSES),
        f"{row.called - len(row.unaccounted)} of {row.called}",
        row.int8 or "not tried",
    ]


if __name__ == "__main__":
    main()
