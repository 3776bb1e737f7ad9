"""The whole way, in order: prepare, convert, attach, map, check, write. Nothing is written before all checks hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from export import config, repository
from export.convert import convert
from export.image_io import IMAGE, attach
from export.layers import map_layers
from export.manifest_json import SCHEMA_VERSION, seal, to_json
from export.metadata import stamp, strip
from export.naming import name_values
from export.parity import Check, check_outputs, torch_outputs
from export.pictures import noise, telling
from export.prepare import prepare, require_classifies
from export.settings import ExportSettings
from export.shapes import check_shapes
from protos import manifest
from protos.version import VERSION
from zoo import LoadedNet
from zoo.preprocessing import Preprocessing

TEST_BATCH = 2
Progress = Callable[[str], None]

_WEIGHTS = {
    "random": manifest.WEIGHTS_RANDOM,
    "trained": manifest.WEIGHTS_TRAINED,
    "pretrained": manifest.WEIGHTS_PRETRAINED,
}


@dataclass(frozen=True)
class Exported:
    """A version that was checked and written."""

    folder: Path
    version: int
    manifest: manifest.Manifest
    nodes: int
    model_bytes: int


def export_model(loaded: LoadedNet, settings: ExportSettings, progress: Progress = lambda step: None) -> Exported:
    """Convert `loaded`, check the result against PyTorch, and write it as a new version of `settings.name`.

    `progress` hears the name of each step as it begins. Raises: ExportError; the repository is then as it was.
    """
    preprocessing, labels = _preprocessing(loaded.preprocessing), loaded.labels
    progress("preparing the net")
    net = prepare(loaded.net)
    classes = _classes(net, loaded.preprocessing)
    shared = {
        config.CONFIG: config.config_text(settings, preprocessing, labels, classes).encode(),
        **({config.LABELS: config.labels_text(labels, classes).encode()} if labels else {}),
    }
    repository.require_same(settings.to / settings.name, shared)
    progress("converting to ONNX")
    model = attach(convert(net, loaded.preprocessing.input_size, settings.opset), loaded.preprocessing)
    progress("finding every layer in the file")
    layer_map = map_layers(model, net, loaded.preprocessing)
    name_values(model, layer_map)
    progress("asking witnesses for every shape")
    shapes = check_shapes(model, net, layer_map, loaded.preprocessing)
    strip(model)
    stamp(model, layer_map, labels, preprocessing)
    progress("comparing with PyTorch")
    checks = check_outputs(model, net, loaded.preprocessing)
    progress("writing")
    promise = _manifest(loaded, settings, model, layer_map, shapes, checks)
    return _write(settings, shared, model, promise, _test_data(net, loaded.preprocessing))


def _write(
    settings: ExportSettings,
    shared: dict[str, bytes],
    model: onnx.ModelProto,
    promise: manifest.Manifest,
    test_data: dict[str, bytes],
) -> Exported:
    content = model.SerializeToString(deterministic=True)
    files = {"model.onnx": content, **test_data}
    seal(promise, {**files, **{f"../{name}": each for name, each in shared.items()}})
    target = settings.to / settings.name
    folder = repository.write_version(target, shared, {**files, "manifest.json": to_json(promise).encode()})
    return Exported(folder, int(folder.name), promise, len(model.graph.node), len(content))


def _manifest(
    loaded: LoadedNet,
    settings: ExportSettings,
    model: onnx.ModelProto,
    layer_map: manifest.LayerMap,
    shapes: manifest.Shapes,
    checks: Sequence[Check],
) -> manifest.Manifest:
    weights = loaded.weights
    return manifest.Manifest(
        schema_version=SCHEMA_VERSION,
        name=settings.name,
        zoonnx_version=VERSION,
        source=manifest.Source(
            net=loaded.architecture,
            weights=_WEIGHTS[weights.kind],
            licence=weights.licence,
            url=weights.url,
            dataset=weights.dataset,
            seed=weights.seed,
            metrics=[manifest.Metric(name=name, value=value) for name, value in sorted(weights.metrics.items())],
        ),
        preprocessing=_preprocessing(loaded.preprocessing),
        labels=loaded.labels,
        inputs=[_tensor(info) for info in model.graph.input],
        outputs=[_tensor(info) for info in model.graph.output],
        format=manifest.Format(
            opset=settings.opset, ir_version=model.ir_version, exporter=f"torch {torch.__version__}"
        ),
        layer_map=layer_map,
        shapes=shapes,
        parity=manifest.Parity(checks=[_parity(check) for check in checks]),
    )


def _preprocessing(rule: Preprocessing) -> manifest.Preprocessing:
    channels, height, width = rule.input_size
    return manifest.Preprocessing(
        channels=channels,
        height=height,
        width=width,
        interpolation=rule.interpolation,
        crop_pct=rule.crop_pct,
        crop_mode=rule.crop_mode,
        mean=rule.mean,
        std=rule.std,
    )


def _parity(check: Check) -> manifest.ParityCheck:
    found = check.agreement
    return manifest.ParityCheck(
        batch=check.batch,
        output=check.output,
        max_abs_error=found.max_abs_error,
        reference_error=found.reference_error,
        tolerance=found.tolerance,
    )


def _tensor(info: onnx.ValueInfoProto) -> manifest.Tensor:
    kind = info.type.tensor_type
    datatype = "UINT8" if kind.elem_type == onnx.TensorProto.UINT8 else "FP32"
    shape = [-1 if dim.dim_param else dim.dim_value for dim in kind.shape.dim]
    return manifest.Tensor(name=info.name, datatype=datatype, shape=shape)


def _classes(net: torch.nn.Module, preprocessing: Preprocessing) -> int:
    images = torch.from_numpy(telling(preprocessing))
    return int(require_classifies(net, preprocessing.normalise(images)).shape[-1])


def _test_data(net: torch.nn.Module, preprocessing: Preprocessing) -> dict[str, bytes]:
    """One batch and what PyTorch makes of it, in the layout of ONNX's own backend tests."""
    images = noise(preprocessing, TEST_BATCH)
    expected = torch_outputs(net, images, preprocessing)
    arrays = {"input_0": (IMAGE, images)}
    arrays |= {f"output_{index}": (name, np.asarray(value)) for index, (name, value) in enumerate(expected.items())}
    return {
        f"test_data_set_0/{file}.pb": numpy_helper.from_array(array, name).SerializeToString(deterministic=True)
        for file, (name, array) in arrays.items()
    }
