"""`zoonnx export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from export.pipeline import Exported
    from protos import manifest


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NET|RUN|MODULE:FUNCTION",
            help="a run's folder, a network's name (random weights), or package.module:function, which returns a module",
        ),
    ],
    to: Annotated[str, typer.Option(metavar="PATH", help="the model repository to write into")],
    name: Annotated[
        str | None, typer.Option(help="the model's name there; by default the run's, the network's or FUNCTION's")
    ] = None,
    opset: Annotated[int, typer.Option(help="the ONNX operator set, 18 to 23")] = 20,
    max_batch_size: Annotated[int, typer.Option(help="the largest batch that a server may form")] = 32,
    pretrained: Annotated[bool, typer.Option(help="give NET its pretrained weights, by timm's own loading")] = False,
    pretrained_file: Annotated[Path | None, typer.Option(help="give NET the weights in this file")] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="divide the logits by RUN's temperature before the probabilities")
    ] = False,
    variants: Annotated[
        str, typer.Option(metavar="LIST", help="also make these of it: fp16, int8, ort, fixed, with commas between")
    ] = "",
    calibration_data: Annotated[
        str, typer.Option(metavar="SET", help="what variants are calibrated and judged on; by default the run's own")
    ] = "",
    max_accuracy_drop: Annotated[float, typer.Option(help="points of accuracy that a variant may lose")] = 1.0,
    min_speedup: Annotated[float, typer.Option(help="fp32's time over the variant's; 1 is not slower")] = 1.0,
    target: Annotated[str, typer.Option(metavar="cpu|cuda", help="where a variant's speed counts")] = "cpu",
    seed: Annotated[int, typer.Option(help="draws the random weights of NET or FUNCTION")] = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="float32 NCHW in, the network's own outputs out, whatever they are")
    ] = False,
    taps: Annotated[bool, typer.Option("--taps", help="keep what goes into each BatchNorm, too")] = False,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="leave the input's height and width free, where the network does")
    ] = False,
    input_size: Annotated[str | None, typer.Option(metavar="C,H,W", help="what the network of FUNCTION takes")] = None,
    mean: Annotated[str | None, typer.Option(metavar="NUMBERS", help="of pixels from 0 to 1, by channel")] = None,
    std: Annotated[str | None, typer.Option(metavar="NUMBERS", help="of pixels from 0 to 1, by channel")] = None,
    labels: Annotated[Path | None, typer.Option(help="FUNCTION's classes, one a line")] = None,
) -> None:
    """Write a network as an ONNX model into a Triton model repository.

    The model takes images (uint8, NHWC, any batch) and gives logits and probabilities, unless --raw asks for the
    network's own tensors. Before anything is written,
    it is compared with PyTorch, output by output and layer by layer, and independent witnesses must agree on every
    shape. With --calibrated the probabilities are as often right as they say on the run's validation split; the logits
    and the answers stay the same.

    Each variant is measured beside it, and written only within the bounds on accuracy and speed. The exit status is 1
    where one is refused; the model itself and the other variants are then written all the same.

    Example: zoonnx export runs/digits --to models --name digits --variants int8,ort
    """
    from rich.console import Console

    from export.cli.source import SourceOptions, load_source
    from export.errors import SettingsError
    from export.pipeline import export_model
    from export.settings import ExportSettings

    if raw and (mean or std):
        raise SettingsError("--mean and --std are for images: a --raw model takes float32 as it is; leave them out.")
    if not to:
        raise SettingsError(
            "--to is empty: name the model repository to write into, such as models, or . for this folder."
        )
    options = SourceOptions(seed, pretrained, pretrained_file, input_size, mean, std, labels)
    loaded = load_source(source, options)
    settings = ExportSettings(
        to=Path(to),
        name=loaded.name if name is None else name,
        opset=opset,
        max_batch_size=max_batch_size,
        raw=raw,
        taps=taps,
        calibrated=calibrated,
        dynamic_size=dynamic_size,
    )
    console = Console(stderr=True)
    plan = None
    if variants:
        from export.variants.cli import planned

        bounds = {"max_accuracy_drop_points": max_accuracy_drop, "min_speedup": min_speedup}
        plan = planned(loaded, settings, variants, calibration_data, target, bounds)
    elif calibration_data:
        raise SettingsError("--calibration-data is for variants: name some with --variants, or leave it out.")
    elif (max_accuracy_drop, min_speedup, target) != (1.0, 1.0, "cpu"):
        raise SettingsError(
            "--max-accuracy-drop, --min-speedup and --target are for variants: name some with --variants, or leave "
            "them out."
        )
    with console.status("exporting") as status:
        exported = export_model(loaded, settings, lambda step: status.update(f"{settings.name}: {step}"))
    _report(exported)
    if plan is not None:
        from export.variants.cli import finish

        finish(plan, exported.folder, console)


def _report(exported: "Exported") -> None:
    from rich.console import Console
    from rich.table import Table

    promise = exported.manifest
    worst = max(promise.parity.checks, key=lambda check: check.max_abs_error / (check.tolerance or 1))
    table = Table(show_header=False, box=None)
    table.add_row("model", f"{promise.name}, version {exported.version}")
    table.add_row("weights", _weights(promise.source))
    table.add_row("file", f"{_size(exported.model_bytes)}, {exported.nodes} nodes, opset {promise.format.opset}")
    table.add_row("probabilities", _probabilities(promise.head))
    table.add_row("parity", f"{worst.output} within {worst.max_abs_error:.1e} (allowed {worst.tolerance:.1e})")
    table.add_row("layers", _layers(promise.layer_map.layers))
    table.add_row("shapes", _shapes(promise.shapes))
    table.add_row("folder", str(exported.folder))
    table.add_row("report", str(exported.report))
    Console().print(table)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _probabilities(head: "manifest.Head") -> str:
    """How they follow from the logits."""
    if not head.activation:
        return "none: the network's own outputs"
    cooled = "logits" if head.temperature == 1 else f"logits / {head.temperature:.4g}"
    return f"{head.activation}({cooled})"


def _layers(layers: "Sequence[manifest.Layer]") -> str:
    from collections import Counter

    from protos import manifest

    counts = Counter(manifest.LayerStatus.Name(layer.status).lower().replace("_", " ") for layer in layers)
    return f"{len(layers)}: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _shapes(found: "manifest.Shapes") -> str:
    modules = f"{found.module_outputs_verified} of {found.module_outputs} module outputs"
    others = f"{found.other_values_verified} of {found.other_values} other values"
    return f"verified by independent witnesses: {modules}, {others}"


def _weights(source: "manifest.Source") -> str:
    from protos import manifest

    origin, licence = source.url or "from a file", source.licence or "unknown"
    words = {
        manifest.WEIGHTS_RANDOM: f"random, drawn by seed {source.seed}: untrained",
        manifest.WEIGHTS_TRAINED: f"trained on {source.dataset}",
        manifest.WEIGHTS_GIVEN: "as the program gave them",
        manifest.WEIGHTS_PRETRAINED: f"pretrained: {origin}, licence {licence}",
    }
    return words[source.weights]
