"""Lies that are sealed: all hashes fit and all places say the same, but the graph or the manifest itself belies it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import helper, numpy_helper

from export.artifact.manifest_json import canonical_sha256, written
from export.check.run import check_model
from protos import inference
from tests.export.check.conftest import change_model, reseal

Fields = dict[str, Any]
Layers = list[Fields]


def faults(model: Path) -> list[str]:
    """All faults, the check before each, the file without its folders."""
    return [
        f"{finding.check}: {Path(fault.file).name}: {fault.words}"
        for report in check_model(model)
        for finding in report.findings
        for fault in finding.faults
    ]


def layer(layers: Layers, name: str) -> Fields:
    return next(each for each in layers if each["name"] == name)


def change_said(model: Path, key: str, change: Callable[[Any], object]) -> None:
    """Change a JSON text in the metadata of the file."""

    def both(proto: onnx.ModelProto) -> None:
        said = {entry.key: entry.value for entry in proto.metadata_props}
        held = json.loads(said[key])
        change(held)
        helper.set_model_props(proto, {**said, key: json.dumps(held, ensure_ascii=False)})

    change_model(model, both)


def change_layers(model: Path, change: Callable[[Layers], object]) -> None:
    """In the file and in the manifest."""
    change_said(model, "zoonnx.layers", lambda held: change(held["layers"]))
    reseal(model / "1", lambda fields: change(fields["layer_map"]["layers"]))


def change_config(model: Path, change: Callable[[inference.ModelConfig], object]) -> None:
    path = model / "config.pbtxt"
    config = text_format.Parse(path.read_text("utf-8"), inference.ModelConfig())
    change(config)
    path.write_text(text_format.MessageToString(config, as_utf8=True), "utf-8")
    reseal(model / "1")


def change_rule(model: Path, **values: object) -> None:
    """In all three places."""

    def in_config(config: inference.ModelConfig) -> None:
        held = config.parameters["zoonnx.preprocessing"]
        held.string_value = json.dumps({**json.loads(held.string_value), **values})

    change_said(model, "zoonnx.preprocessing", lambda held: held.update(values))
    change_config(model, in_config)
    reseal(model / "1", lambda fields: fields["preprocessing"].update(values))


def forget(model: Path, pattern: str) -> None:
    """Remove files, and their names from the manifest."""
    gone = list((model / "1").glob(pattern))
    for path in gone:
        path.unlink()
    path = model / "1" / "manifest.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["files"] = [each for each in fields["files"] if (model / "1" / each["path"]).is_file()]
    fields["sha256"] = canonical_sha256(fields)
    path.write_text(written(fields), "utf-8")


def swap(layers: Layers) -> None:
    a, b = layer(layers, "stem.norm"), layer(layers, "stem.act")
    a["value"], b["value"] = b["value"], a["value"]


def tolerate(fields: Fields, tolerance: float | str) -> None:
    for each in fields["parity"]["checks"]:
        each["tolerance"] = tolerance


LAYERS: dict[str, tuple[Callable[[Layers], object], str]] = {
    "values of two layers exchanged": (swap, "layer 'stem.norm' should be its value 'stem.act'; another value bears"),
    "a value that is another layer's": (
        lambda layers: layer(layers, "stem.norm").update(value="stem.act"),
        "layer 'stem.norm' should be its value 'stem.act'; another value bears its name",
    ),
    "folded into nothing": (
        lambda layers: layer(layers, "stem.conv").update(of="nowhere"),
        "layer 'stem.conv' of its layer map is FOLDED of 'nowhere', which is no layer",
    ),
    "an alias of another": (
        lambda layers: layer(layers, "stem").update(status="ALIAS", of="stem.norm"),
        "layer 'stem' of its layer map is ALIAS of 'stem.norm', but has another value",
    ),
    "exact, and nowhere": (
        lambda layers: layer(layers, "stem.act").pop("value"),
        "layer 'stem.act' of its layer map is EXACT with the value ''",
    ),
    "not exported, and there": (
        lambda layers: layer(layers, "stem.act").update(status="NOT_EXPORTED"),
        "layer 'stem.act' of its layer map is NOT_EXPORTED with the value 'stem.act'",
    ),
    "another path": (
        lambda layers: layer(layers, "stem.act").update(path="stem.norm"),
        "layer 'stem.act' of its layer map is not called after its path, 'stem.norm'",
    ),
    "twice": (lambda layers: layers.append(dict(layers[0])), "its layer map has two layers of one name"),
    "a size that is free": (
        lambda layers: layer(layers, "stem.act").update(shape=[-1, -1, 8, 8]),
        "layer 'stem.act' should have a free size on axis 1; it is always 32",
    ),
}


@pytest.mark.parametrize("lie", LAYERS)
def test_a_layer_map(model: Path, lie: str) -> None:
    """What file and manifest say of layers alike is held against the graph's own names, and against itself."""
    change, words = LAYERS[lie]
    change_layers(model, change)
    assert [each for each in faults(model) if f"model.onnx: {words}" in each]


MANIFEST: dict[str, tuple[Callable[[Fields], object], str]] = {
    "any tolerance": (
        lambda fields: tolerate(fields, 1e9),
        "test data: manifest.json: it allows 'logits' to depart from PyTorch by 1e+09; no export allows over ",
    ),
    "no limit at all": (
        lambda fields: tolerate(fields, "Infinity"),
        "test data: manifest.json: it allows 'logits' to depart from PyTorch by inf; no export allows over ",
    ),
    "an error beyond its tolerance": (
        lambda fields: fields["parity"]["checks"][0].update(max_abs_error=5.0),
        "record: manifest.json: it says that 'logits' departed from PyTorch by 5 at batch 1, where ",
    ),
    "a layer's error beyond its tolerance": (
        lambda fields: layer(fields["layer_map"]["layers"], "stem.act").update(tolerance=1e-5, max_abs_error=7.0),
        "record: manifest.json: it says that layer 'stem.act' departed from PyTorch by 7, where 1e-05 were allowed",
    ),
    "temperature": (
        lambda fields: fields.update(head={"activation": "softmax", "temperature": 1.2}),
        "frame: manifest.json: its head, softmax(logits / 1.2), is not what the graph makes of the logits",
    ),
    "activation": (
        lambda fields: fields.update(head={"activation": "sigmoid", "temperature": 1.0}),
        "frame: manifest.json: its head, sigmoid(logits / 1), is not what the graph makes of the logits",
    ),
    "more witnesses": (
        lambda fields: fields["shapes"].update(module_outputs=99, module_outputs_verified=99),
        "record: manifest.json: it counts 99 of 99 module outputs as verified; its layer map has 32 of 32",
    ),
    "fewer unverified": (
        lambda fields: fields["shapes"].update(other_values_verified=1),
        "record: manifest.json: it counts the shapes of 37 values, 4 of them unverified, and lists 0; the graph has 37",
    ),
    "no schema": (
        lambda fields: fields.pop("schema_version"),
        "record: manifest.json: its schema_version is 0: it is 1 or more",
    ),
    "another's variant": (
        lambda fields: fields.update(variant={"kind": "int8", "of": "vgg"}),
        "record: manifest.json: it is the int8 variant of 'vgg', but is called 'bottleneck4'",
    ),
    "trained": (
        lambda fields: fields.update(variant={"kind": "int8", "of": "bottleneck4"}),
        "record: manifest.json: its weights are random, and its variant is called trained",
    ),
}


@pytest.mark.parametrize("lie", MANIFEST)
def test_a_manifest(model: Path, lie: str) -> None:
    """What the manifest says of the checks that were made, and of what stands around the network."""
    change, words = MANIFEST[lie]
    reseal(model / "1", change)
    assert [each for each in faults(model) if each.startswith(words)]


def test_a_tolerance_that_hides_other_weights(model: Path) -> None:
    """A model that is not PyTorch's any more cannot be excused by what the manifest allows."""

    def nudge(proto: onnx.ModelProto) -> None:
        weight = next(each for each in proto.graph.initializer if len(each.dims) == 4 and each.dims[1] > 1)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))

    change_model(model, nudge)
    reseal(model / "1", lambda fields: tolerate(fields, 1e9))
    assert faults(model)


def test_a_variant_that_loses_anything(model: Path) -> None:
    """What a variant lost is measured again."""
    variant = {"kind": "fp16", "of": "other", "untrained": True}
    checks = [
        {"batch": 2, "output": name, "max_abs_error": 1e8, "tolerance": 2e8} for name in ("logits", "probabilities")
    ]
    reseal(model / "1", lambda fields: fields.update(variant=variant, parity={"checks": checks}))
    words = "it allows 'logits' to depart from PyTorch by 2e+08; no export allows over 0.000202"
    assert f"test data: manifest.json: {words}" in faults(model)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_another_normalisation(model: Path, key: str) -> None:
    """A mean or a std that all places name alike, but by which the graph does not normalise."""
    change_rule(model, **{key: [0.501]})
    words = "its mean and std are not those by which the graph normalises images"
    assert faults(model) == [f"frame: manifest.json: {words}"]


def test_images_of_another_size(model: Path) -> None:
    """A rule for images that do not fit the input."""
    change_rule(model, height=9)
    assert faults(model) == ["frame: manifest.json: its rule is for 1x9x8; the images are 8x8x1 behind the batch"]


def test_another_task(model: Path) -> None:
    """A configuration that tells clients of several labels, where the head knows of one."""
    change_config(model, lambda config: config.parameters["zoonnx.task"].MergeFrom(_text("multi-label")))
    assert faults(model) == ["frame: manifest.json: its head is softmax; config.pbtxt names the task 'multi-label'"]


def _text(value: str) -> inference.ModelParameter:
    return inference.ModelParameter(string_value=value)


def test_another_backend(model: Path) -> None:
    """A configuration by which a Triton would not load the model."""
    change_config(model, lambda config: setattr(config, "backend", "tensorflow"))
    (words,) = faults(model)
    assert "names the backend 'tensorflow'; an export's is 'onnxruntime'" in words


@pytest.mark.parametrize(
    ("pattern", "words"), [("test_data_set_0/*.pb", "none"), ("test_data_set_0/output_1.pb", "logits")]
)
def test_data_that_is_gone(model: Path, pattern: str, words: str) -> None:
    """A model of ours has test data for its input and for every output, whatever the manifest lists."""
    forget(model, pattern)
    kinds = [
        each for each in faults(model) if each.startswith("test data: test_data_set_0: it should hold the outputs")
    ]
    assert [each for each in kinds if each.endswith(f"it holds {words}")]


def test_a_configuration_that_is_gone(model: Path) -> None:
    """So has it a config.pbtxt, without which no server knows what it takes."""
    forget(model, "../config.pbtxt")
    assert "record: manifest.json: it names no config.pbtxt among its files" in faults(model)
