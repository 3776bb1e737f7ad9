"""Runs the steps of an export in order. Nothing is written before all checks pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from export.artifact.report import write_report
from export.errors import foreign_errors
from export.settings import ExportSettings
from export.source.source_network import SourceNetwork
from export.steps.convert_network import convert_network
from export.steps.describe_model import describe_model
from export.steps.load_source import load_source
from export.steps.map_model_layers import map_model_layers
from export.steps.prepare_network import prepare_network
from export.steps.run_reference import run_reference
from export.steps.screen_reference import screen_reference
from export.steps.verify_parity import verify_parity
from export.steps.verify_preparation import verify_preparation
from export.steps.verify_shapes import verify_shapes
from export.steps.write_version import write_version
from export.timing import Progress, StepTimer
from protos import manifest
from zoo import LoadedNetwork
from zoo.networks.preprocessing import Preprocessing


@dataclass(frozen=True)
class Exported:
    """A version that was verified and written.

    Attributes:
        folder: The version's folder.
        version: Its number.
        manifest: Its manifest.
        nodes: The number of nodes of the graph.
        model_bytes: The size of the model file and its external data.
        report: The path of the export's report, outside the repository.
    """

    folder: Path
    version: int
    manifest: manifest.Manifest
    nodes: int
    model_bytes: int
    report: Path


def export_model(
    network: SourceNetwork | LoadedNetwork | nn.Module | Path | str,
    settings: ExportSettings,
    progress: Progress = lambda step: None,
    *,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
) -> Exported:
    """Convert `network`, verify the model against PyTorch, and write it as a new version of `settings.name`.

    `network` is the folder of a run, a network's name, the result of `load_network`, or any module. `preprocessing`
    and `labels` are only for a module; the preprocessing defaults to that of timm's `pretrained_cfg`, and a network
    without one image as its input needs `settings.inputs` instead. `progress` is called with the name of each step as
    it begins.

    Raises: ExportError, with exceptions of other packages as its cause; the repository is then unchanged.
    """
    step = StepTimer(progress)
    # A caller's inference mode would hide which layers compute in place (see export/tracing/trace.py).
    with torch.inference_mode(mode=False), foreign_errors(lambda: step.current):
        return _run_steps(network, settings, preprocessing, labels, step)


def _run_steps(
    network: SourceNetwork | LoadedNetwork | nn.Module | Path | str,
    settings: ExportSettings,
    preprocessing: Preprocessing | None,
    labels: Sequence[str],
    step: StepTimer,
) -> Exported:
    source = load_source(network, settings, preprocessing, labels)
    step("preparing the network")
    prepared = prepare_network(source)
    step("running PyTorch in float32")
    reference = run_reference(prepared)
    described = describe_model(reference)
    step("converting to ONNX")
    converted = convert_network(described)
    step("running PyTorch in float64")
    converted = screen_reference(converted)
    step("comparing the prepared network with the original")
    preparation_verified = verify_preparation(converted)
    step("mapping layers to values")
    mapped = map_model_layers(preparation_verified)
    step("verifying shapes")
    shapes_verified = verify_shapes(mapped)
    step("comparing with PyTorch")
    verified = verify_parity(shapes_verified)
    step("writing")
    written = write_version(verified)
    version = int(written.folder.name)
    report = write_report(settings.to, version, written.manifest, step.seconds())
    nodes = len(written.model.graph.node)
    return Exported(written.folder, version, written.manifest, nodes, written.model_bytes, report)
