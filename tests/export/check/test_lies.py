"""Edited, re-hashed artifacts with consistent files: contradictions to the graph or in the manifest are detected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import helper, numpy_helper
from torch import nn

from export import ExportSettings, export_model
from export.artifact.manifest_json import canonical_sha256, serialize
from export.check.run import check_model
from export.input_spec import InputSpec
from protos import inference
from tests.export.check.conftest import change_model, reseal

Fields = dict[str, Any]
Layers = list[Fields]


def failures(model: Path) -> list[str]:
    """Return all failures as "check: file name: message"."""
    return [
        f"{result.check}: {Path(failure.file).name}: {failure.message}"
        for report in check_model(model)
        for result in report.results
        for failure in result.failures
    ]


def layer(layers: Layers, name: str) -> Fields:
    return next(entry for entry in layers if entry["name"] == name)


def change_metadata(model: Path, key: str, change: Callable[[Any], object]) -> None:
    """Change a JSON value in the metadata of the ONNX file."""

    def change_proto(proto: onnx.ModelProto) -> None:
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        value = json.loads(metadata[key])
        change(value)
        helper.set_model_props(proto, {**metadata, key: json.dumps(value, ensure_ascii=False)})

    change_model(model, change_proto)


def change_layers(model: Path, change: Callable[[Layers], object]) -> None:
    """Change the layer map in the ONNX file and in the manifest."""
    change_metadata(model, "zoonnx.layers", lambda layer_map: change(layer_map["layers"]))
    reseal(model / "1", lambda fields: change(fields["layer_map"]["layers"]))


def change_config(model: Path, change: Callable[[inference.ModelConfig], object]) -> None:
    path = model / "config.pbtxt"
    config = text_format.Parse(path.read_text("utf-8"), inference.ModelConfig())
    change(config)
    path.write_text(text_format.MessageToString(config, as_utf8=True), "utf-8")
    reseal(model / "1")


def change_preprocessing(model: Path, **values: object) -> None:
    """Change the preprocessing in the ONNX file, config.pbtxt and the manifest."""

    def in_config(config: inference.ModelConfig) -> None:
        parameter = config.parameters["zoonnx.preprocessing"]
        parameter.string_value = json.dumps({**json.loads(parameter.string_value), **values})

    change_metadata(model, "zoonnx.preprocessing", lambda preprocessing: preprocessing.update(values))
    change_config(model, in_config)
    reseal(model / "1", lambda fields: fields["preprocessing"].update(values))


def remove(model: Path, pattern: str) -> None:
    """Remove files, also from the manifest's list."""
    for path in list((model / "1").glob(pattern)):
        path.unlink()
    path = model / "1" / "manifest.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["files"] = [entry for entry in fields["files"] if (model / "1" / entry["path"]).is_file()]
    fields["sha256"] = canonical_sha256(fields)
    path.write_text(serialize(fields), "utf-8")


def swap_values(layers: Layers) -> None:
    a, b = layer(layers, "stem.norm"), layer(layers, "stem.act")
    a["value"], b["value"] = b["value"], a["value"]


def set_tolerance(fields: Fields, tolerance: float | str) -> None:
    for check in fields["parity"]["checks"]:
        check["tolerance"] = tolerance


LAYER_MAP_CHANGES: dict[str, tuple[Callable[[Layers], object], str]] = {
    "values of two layers swapped": (
        swap_values,
        "layer 'stem.norm': expected value 'stem.act', but another value has the layer's name",
    ),
    "value of another layer": (
        lambda layers: layer(layers, "stem.norm").update(value="stem.act"),
        "layer 'stem.norm': expected value 'stem.act', but another value has the layer's name",
    ),
    "folded into a missing layer": (
        lambda layers: layer(layers, "stem.conv").update(of="nowhere"),
        "layer map: layer 'stem.conv' is FOLDED of 'nowhere', which is not a layer",
    ),
    "alias of the wrong layer": (
        lambda layers: layer(layers, "stem").update(status="ALIAS", of="stem.norm"),
        "layer map: layer 'stem' is ALIAS of 'stem.norm', but has another value",
    ),
    "exact without a value": (
        lambda layers: layer(layers, "stem.act").pop("value"),
        "layer map: layer 'stem.act' is EXACT with the value ''",
    ),
    "not exported with a value": (
        lambda layers: layer(layers, "stem.act").update(status="NOT_EXPORTED"),
        "layer map: layer 'stem.act' is NOT_EXPORTED with the value 'stem.act'",
    ),
    "another path": (
        lambda layers: layer(layers, "stem.act").update(path="stem.norm"),
        "layer map: layer 'stem.act' does not have the name of its path, 'stem.norm'",
    ),
    "duplicate": (lambda layers: layers.append(dict(layers[0])), "layer map: two layers have the same name"),
    "constant size declared as dynamic": (
        lambda layers: layer(layers, "stem.act").update(shape=[-1, -1, 8, 8]),
        "layer 'stem.act': expected a dynamic size on axis 1, got 32 in all runs",
    ),
}


@pytest.mark.parametrize("case", LAYER_MAP_CHANGES)
def test_changed_layer_map(model: Path, case: str) -> None:
    """A layer map that is changed in all files is compared with the graph, and its entries with each other."""
    change, message = LAYER_MAP_CHANGES[case]
    change_layers(model, change)
    assert [failure for failure in failures(model) if f"model.onnx: {message}" in failure]


MANIFEST_CHANGES: dict[str, tuple[Callable[[Fields], object], str]] = {
    "huge tolerance": (
        lambda fields: set_tolerance(fields, 1e9),
        "test data: manifest.json: records a tolerance of 1e+09 for 'logits'; an export allows ",
    ),
    "infinite tolerance": (
        lambda fields: set_tolerance(fields, "Infinity"),
        "test data: manifest.json: records a tolerance of inf for 'logits'; an export allows ",
    ),
    "error beyond its tolerance": (
        lambda fields: fields["parity"]["checks"][0].update(max_abs_error=5.0),
        "self-consistency: manifest.json: records that 'logits' differs from PyTorch by 5 at batch 1, more than its ",
    ),
    "error of a layer beyond its tolerance": (
        lambda fields: layer(fields["layer_map"]["layers"], "stem.act").update(tolerance=1e-5, max_abs_error=7.0),
        "self-consistency: manifest.json: records that layer 'stem.act' differs from PyTorch by 7, more than its "
        "tolerance of 1e-05",
    ),
    "temperature": (
        lambda fields: fields.update(head={"activation": "softmax", "temperature": 1.2}),
        "pre/postprocessing: manifest.json: declares the head softmax(logits / 1.2), but the graph computes other",
    ),
    "activation": (
        lambda fields: fields.update(head={"activation": "sigmoid", "temperature": 1.0}),
        "pre/postprocessing: manifest.json: declares the head sigmoid(logits / 1), but the graph computes other",
    ),
    "more witnesses": (
        lambda fields: fields["shapes"].update(module_outputs=99, module_outputs_verified=99),
        "self-consistency: manifest.json: counts 99 of 99 module outputs as verified, but its layer map has 32 of 32",
    ),
    "fewer unverified": (
        lambda fields: fields["shapes"].update(other_values_verified=1),
        "self-consistency: manifest.json: counts the shapes of 37 values, 4 of them unverified, but lists 0 as "
        "unverified, and the graph has 37",
    ),
    "no schema": (
        lambda fields: fields.pop("schema_version"),
        "self-consistency: manifest.json: expected schema_version 1 or more, got 0",
    ),
    "variant of another model": (
        lambda fields: fields.update(variant={"kind": "int8", "of": "vgg"}),
        "self-consistency: manifest.json: expected the name 'vgg-int8' for this variant, got 'bottleneck4'",
    ),
    "trained": (
        lambda fields: fields.update(variant={"kind": "int8", "of": "bottleneck4"}),
        "self-consistency: manifest.json: has random weights, but records its variant as trained",
    ),
}


@pytest.mark.parametrize("case", MANIFEST_CHANGES)
def test_changed_manifest(model: Path, case: str) -> None:
    """The recorded results, the head and the variant are compared with the graph and with each other."""
    change, message = MANIFEST_CHANGES[case]
    reseal(model / "1", change)
    assert [failure for failure in failures(model) if failure.startswith(message)]


def test_tolerance_that_would_hide_changed_weights(model: Path) -> None:
    """Changed weights are detected even if the manifest records a huge tolerance."""

    def nudge(proto: onnx.ModelProto) -> None:
        weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] > 1)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))

    change_model(model, nudge)
    reseal(model / "1", lambda fields: set_tolerance(fields, 1e9))
    assert failures(model)


def test_variant_with_a_huge_error(model: Path) -> None:
    """The recorded error of a variant is compared with its error on the test data."""
    variant = {"kind": "fp16", "of": "other", "untrained": True}
    checks = [
        {"batch": 2, "output": name, "max_abs_error": 1e8, "tolerance": 2e8} for name in ("logits", "probabilities")
    ]
    reseal(model / "1", lambda fields: fields.update(variant=variant, parity={"checks": checks}))
    message = "records a tolerance of 2e+08 for 'logits'; an export allows 0.000202"
    assert f"test data: manifest.json: {message}" in failures(model)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_another_normalisation(model: Path, key: str) -> None:
    """A mean or std that all files declare, but that the graph does not use, is detected."""
    change_preprocessing(model, **{key: [0.501]})
    message = "mean and std are not those with which the graph normalises images"
    assert failures(model) == [f"pre/postprocessing: manifest.json: {message}"]


def test_images_of_another_size(model: Path) -> None:
    """Preprocessing to another size than that of the input is detected."""
    change_preprocessing(model, height=9)
    message = "declares preprocessing to 9x8x1 images (H, W, C), but the test images are 8x8x1"
    assert failures(model) == [f"pre/postprocessing: manifest.json: {message}"]


def test_another_task(model: Path) -> None:
    """A configuration that declares a multi-label task for a softmax head is detected."""
    task = inference.ModelParameter(string_value="multi-label")
    change_config(model, lambda config: config.parameters["zoonnx.task"].MergeFrom(task))
    message = "the head is softmax, but config.pbtxt has the task 'multi-label'"
    assert failures(model) == [f"pre/postprocessing: manifest.json: {message}"]


def test_another_backend(model: Path) -> None:
    """A backend with which Triton would not load the model is detected."""
    change_config(model, lambda config: setattr(config, "backend", "tensorflow"))
    (failure,) = failures(model)
    assert "expected backend 'onnxruntime' in config.pbtxt, got 'tensorflow'" in failure


@pytest.mark.parametrize(
    ("pattern", "remaining"), [("test_data_set_0/*.pb", "none"), ("test_data_set_0/output_1.pb", "logits")]
)
def test_missing_test_data(model: Path, pattern: str, remaining: str) -> None:
    """Missing test data for an input or an output is detected, even if the manifest does not list it."""
    remove(model, pattern)
    start = "test data: test_data_set_0: expected the outputs "
    missing = [failure for failure in failures(model) if failure.startswith(start)]
    assert [failure for failure in missing if failure.endswith(f"got {remaining}")]


def test_missing_configuration(model: Path) -> None:
    """A missing config.pbtxt is detected, even if the manifest does not list it."""
    remove(model, "../config.pbtxt")
    assert "self-consistency: manifest.json: config.pbtxt is missing in its list of files" in failures(model)


def test_inputs_outside_their_limits(tmp_path: Path) -> None:
    """Test data that the declared limits of an input exclude is rejected."""
    network = nn.Sequential(nn.Linear(4, 2)).eval()
    inputs = {"input": InputSpec((4,), limits=(0, 1))}
    export_model(network, ExportSettings(to=tmp_path, name="n", raw=True, inputs=inputs))
    assert failures(tmp_path / "n") == []
    reseal(tmp_path / "n" / "1", lambda fields: fields["inputs"][0]["limits"].update(high=0.5))
    assert any(
        "the input 'input' has values outside its limits, 0 to 0.5 (manifest.json)" in failure
        for failure in failures(tmp_path / "n")
    )
