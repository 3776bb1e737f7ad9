"""`zoonnx export`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from export.cli.columns import Cell
    from export.pipeline import Exported
    from export.settings import ExportSettings
    from export.source.source_network import SourceNetwork
    from export.variants.runner import Plan
    from protos import manifest
    from zoo import LoadedNetwork


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK|RUN|MODULE:FUNCTION",
            help="Network by name (random weights), a run's folder, or package.module:function returning a module.",
        ),
    ],
    to: Annotated[str, typer.Option(metavar="PATH", help="Model repository to write to.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model. Default: that of the run, the network or FUNCTION.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 23.")] = 20,
    max_batch_size: Annotated[int, typer.Option(help="Largest batch that a server may form.")] = 32,
    pretrained: Annotated[bool, typer.Option(help="Load the pretrained weights of NETWORK, as timm does.")] = False,
    pretrained_file: Annotated[Path | None, typer.Option(help="Load the weights of NETWORK from this file.")] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Calibrate the probabilities with RUN's temperature."),
    ] = False,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="softmax|sigmoid", help="computes the probabilities; default: sigmoid for multi-label RUNs"
        ),
    ] = None,
    variants: Annotated[
        str, typer.Option(metavar="LIST", help="Also build these variants, comma-separated: fp16, int8, ort, fixed.")
    ] = "",
    calibration_data: Annotated[
        str, typer.Option(metavar="DATASET", help="Dataset to calibrate and evaluate variants. Default: that of RUN.")
    ] = "",
    max_accuracy_drop: Annotated[
        float, typer.Option(help="Largest accepted loss of accuracy, in percentage points.")
    ] = 1.0,
    min_speedup: Annotated[
        float, typer.Option(help="Smallest accepted speedup: fp32's latency over the variant's.")
    ] = 1.0,
    target: Annotated[str, typer.Option(metavar="cpu|cuda", help="Device on which to measure speed.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the random weights of NETWORK or FUNCTION.")] = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Accept float32 NCHW and produce the network's own outputs, unchanged.")
    ] = False,
    taps: Annotated[
        bool, typer.Option("--taps", help="Keep the input of each BatchNorm, which is otherwise folded.")
    ] = False,
    dynamic_size: Annotated[
        bool,
        typer.Option("--dynamic-size", help="Make height and width dynamic, if the network supports it."),
    ] = False,
    keep_branches: Annotated[
        bool, typer.Option("--keep-branches", help="Do not re-parameterise blocks of several branches into one layer.")
    ] = False,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="NAME=SHAPE[:DTYPE][:LOW..HIGH]",
            help="With --raw, an input of a network that has others than one image: the forward's argument, its "
            "shape without the batch, its dtype (float32, int64, int32, uint8, bool) and the values to compare it "
            "with. Repeatable.",
        ),
    ] = [],  # noqa: B006  typer copies it
    input_size: Annotated[str | None, typer.Option(metavar="C,H,W", help="Input size of FUNCTION's network.")] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Mean per channel of pixel values from 0 to 1 (FUNCTION).")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Standard deviation per channel, likewise (FUNCTION).")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="File with FUNCTION's class labels, one per line.")] = None,
) -> None:
    """Write a network as an ONNX model to a Triton model repository.

    The model accepts images (uint8, NHWC, any batch size) and produces logits and probabilities; with --raw it has the
    network's own tensors instead, and --input describes those of a network that has others than one image, as in
    --raw --input image=3,64,64 --input mask=1,64,64:0..1. Before anything is written, every output and every layer is
    compared with PyTorch, and every shape is verified by independent sources. --calibrated calibrates the probabilities
    on the run's validation split; logits and predicted classes stay the same.

    Each variant is compared with the model, and written only if it meets the bounds on accuracy and speed. If a variant
    is rejected, the exit status is 1; the model itself and all other variants are written.

    Example: zoonnx export runs/digits --to models --variants int8,ort
    """
    from rich.console import Console

    from export.cli.source import SourceOptions, load_source
    from export.errors import SettingsError
    from export.input_spec import parse_inputs
    from export.pipeline import export_model
    from export.settings import ExportSettings

    if raw and (mean or std):
        raise SettingsError("--mean and --std are for images, but a --raw model accepts float32: omit them.")
    if not to:
        raise SettingsError("--to is empty: pass a model repository, such as models, or . for the current folder.")
    options = SourceOptions(seed, pretrained, pretrained_file, input_size, mean, std, labels, has_inputs=bool(inputs))
    loaded = load_source(source, options)
    settings = ExportSettings(
        to=Path(to),
        name=loaded.name if name is None else name,
        opset=opset,
        max_batch_size=max_batch_size,
        raw=raw,
        taps=taps,
        calibrated=calibrated,
        activation=activation,  # type: ignore[arg-type]  # checked there
        dynamic_size=dynamic_size,
        keep_branches=keep_branches,
        inputs=parse_inputs(inputs),
    )
    bounds = (max_accuracy_drop, min_speedup)
    plan = _plan_variants(loaded, settings, variants, calibration_data, target, bounds)
    console = Console(stderr=True)
    with console.status("exporting") as status:
        exported = export_model(loaded, settings, lambda step: status.update(f"{settings.name}: {step}"))
    _print_summary(exported)
    if plan is not None:
        from export.cli.variants import build_variants

        build_variants(plan, exported.folder, console)


def _plan_variants(
    loaded: "LoadedNetwork | SourceNetwork",
    settings: "ExportSettings",
    variants: str,
    calibration_data: str,
    target: str,
    bounds: tuple[float, float],
) -> "Plan | None":
    """Return the plan for the variants, None if there are none. Raises: SettingsError for options without variants."""
    from export.errors import SettingsError
    from export.source.source_network import SourceNetwork

    if variants:
        from export.cli.variants import parse_plan

        if settings.inputs or isinstance(loaded, SourceNetwork):
            raise SettingsError("variants are made of models with one image as their input: omit --variants.")
        return parse_plan(loaded, settings, variants, calibration_data, target, bounds)
    if calibration_data:
        raise SettingsError("--calibration-data is for variants: name some with --variants, or omit it.")
    if (*bounds, target) != (1.0, 1.0, "cpu"):
        raise SettingsError(
            "--max-accuracy-drop, --min-speedup and --target are for variants: name some with --variants, or omit them."
        )
    return None


def _print_summary(exported: "Exported") -> None:
    from rich.console import Console
    from rich.text import Text

    from export.cli.columns import format_rows

    console = Console()
    for row in format_rows(summary(exported), console.width):
        console.print(Text(row), soft_wrap=True)


def summary(exported: "Exported") -> "list[tuple[str, Cell]]":
    """Return the summary of an export, one label and one text per row."""
    manifest = exported.manifest
    worst = max(manifest.parity.checks, key=lambda check: check.max_abs_error / (check.tolerance or 1))
    return [
        ("model", f"{manifest.name}, version {exported.version}"),
        ("weights", _weights(manifest.source)),
        *_cast_rows(manifest.parity.cast),
        ("file", f"{_size(exported.model_bytes)}, {exported.nodes} nodes, opset {manifest.format.opset}"),
        ("probabilities", _probabilities(manifest.head)),
        ("parity", f"{worst.output} within {worst.max_abs_error:.1e} of PyTorch (tolerance {worst.tolerance:.1e})"),
        ("layers", _layers(manifest.layer_map.layers)),
        ("shapes", _shapes(manifest.shapes)),
        ("folder", exported.folder),
        ("report", exported.report),
    ]


def _cast_rows(cast: "manifest.Cast") -> "list[tuple[str, Cell]]":
    """Return a note on the cast to float32, if there was one."""
    from export.artifact.report import cast_effect

    if not cast.dtype:
        return []
    return [("precision", f"cast from {cast.dtype} to float32, {cast_effect(cast)}")]


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _probabilities(head: "manifest.Head") -> str:
    """Return the formula of the probabilities."""
    if not head.activation:
        return "none: the model has the network's own outputs"
    logits = "logits" if head.temperature == 1 else f"logits / {head.temperature:.4g}"
    return f"{head.activation}({logits})"


def _layers(layers: "Sequence[manifest.Layer]") -> str:
    from protos import manifest

    counts = Counter(manifest.LayerStatus.Name(layer.status).lower().replace("_", " ") for layer in layers)
    return f"{len(layers)}: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _shapes(shapes: "manifest.Shapes") -> str:
    return (
        f"verified: {shapes.module_outputs_verified} of {shapes.module_outputs} module outputs, "
        f"{shapes.other_values_verified} of {shapes.other_values} other values"
    )


def _weights(source: "manifest.Source") -> str:
    from protos import manifest

    descriptions = {
        manifest.WEIGHTS_RANDOM: f"untrained (random, seed {source.seed})",
        manifest.WEIGHTS_TRAINED: f"trained on {source.dataset}",
        manifest.WEIGHTS_GIVEN: "those of the module",
        manifest.WEIGHTS_PRETRAINED: (
            f"pretrained: {source.url or 'from a file'}, licence {source.licence or 'unknown'}"
        ),
    }
    return descriptions[source.weights]
