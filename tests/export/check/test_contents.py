"""Files with correct hashes, but inconsistent contents: each inconsistency is reported with the file that has it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.check.run import check_model
from tests.export.check.conftest import change_model, reseal

Fields = dict[str, Any]


def failures(model: Path) -> dict[str, list[str]]:
    """Return the failures by check, with paths relative to the model's folder."""
    return {
        result.check: [f"{failure.file.removeprefix(f'{model}/')}: {failure.message}" for failure in result.failures]
        for report in check_model(model)
        for result in report.results
        if result.failures
    }


def layer(fields: Fields, name: str) -> Fields:
    return next(entry for entry in fields["layer_map"]["layers"] if entry["name"] == name)


MANIFEST_CHANGES: dict[str, tuple[Callable[[Fields], Any], str, str]] = {
    "opset": (
        lambda fields: fields["format"].update(opset=19),
        "format",
        "1/model.onnx: expected opset 19 (manifest.json), got 20",
    ),
    "ir": (
        lambda fields: fields["format"].update(ir_version=9),
        "format",
        "1/model.onnx: expected IR version 9 (manifest.json), got 10",
    ),
    "input": (
        lambda fields: fields["inputs"][0].update(shape=[-1, 9, 8, 1]),
        "interface",
        "1/model.onnx: input 'image': expected UINT8 [-1, 9, 8, 1] (manifest.json), got UINT8 [-1, 8, 8, 1]",
    ),
    "output": (
        lambda fields: fields["outputs"].pop(),
        "interface",
        "1/model.onnx: output 'probabilities': expected no such tensor (manifest.json), got FP32 [-1, 10]",
    ),
    "name": (
        lambda fields: fields.update(name="other"),
        "interface",
        "1/manifest.json: expected model name 'bottleneck4' (its folder), got 'other'",
    ),
    "labels": (
        lambda fields: fields["labels"].reverse(),
        "labels",
        "1/manifest.json: labels differ from labels.txt",
    ),
    "preprocessing": (
        lambda fields: fields["preprocessing"].update(crop_pct=0.9),
        "preprocessing",
        "1/model.onnx: preprocessing differs from 1/manifest.json",
    ),
    "status": (
        lambda fields: layer(fields, "stem.act").update(kind="GELU"),
        "layers",
        "1/model.onnx: layer map differs from manifest.json at layer 'stem.act': kind",
    ),
    "layer": (
        lambda fields: fields["layer_map"]["layers"].pop(),
        "layers",
        "1/model.onnx: layer map: expected 69 layers (manifest.json), got 70",
    ),
    "shape": (
        lambda fields: layer(fields, "stem.act").update(shape=[-1, 32, 8, 9]),
        "shapes",
        "1/model.onnx: layer 'stem.act': expected shape [-1, 32, 8, 9], "
        "got [1, 32, 8, 8] at batch 1, [3, 32, 8, 8] at batch 3",
    ),
    "parity": (
        lambda fields: fields["parity"].update(checks=[]),
        "test data",
        "1/manifest.json: has no parity check of 'logits' at batch 2",
    ),
}


@pytest.mark.parametrize("case", MANIFEST_CHANGES)
def test_changed_manifest(model: Path, case: str) -> None:
    """A manifest with correct hashes that contradicts the other files is detected."""
    change, check, message = MANIFEST_CHANGES[case]
    reseal(model / "1", change)
    message = message.replace("from 1/manifest.json", f"from {model / '1/manifest.json'}")
    assert message in failures(model)[check]


def test_layer_without_a_value(model: Path) -> None:
    """A layer map that names a value which is not in the graph is detected, even if file and manifest agree."""
    change_model(
        model,
        lambda proto: helper.set_model_props(
            proto, {p.key: p.value.replace('"value":"stem.act"', '"value":"stem.act2"') for p in proto.metadata_props}
        ),
    )
    reseal(model / "1", lambda fields: layer(fields, "stem.act").update(value="stem.act2"))
    message = "1/model.onnx: layer 'stem.act': expected value 'stem.act2', which is not in the graph"
    assert message in failures(model)["layers"]


@pytest.mark.parametrize("key", ["zoonnx.labels", "zoonnx.preprocessing", "zoonnx.layers"])
def test_metadata_of_another_model(model: Path, key: str) -> None:
    """The metadata in the ONNX file is compared, too."""
    change_model(
        model,
        lambda proto: helper.set_model_props(
            proto, {p.key: '{"a": 1}' if p.key == key else p.value for p in proto.metadata_props}
        ),
    )
    assert list(failures(model)) == [key.removeprefix("zoonnx.")]


def test_missing_metadata(model: Path) -> None:
    """Missing metadata in the ONNX file is detected."""
    change_model(model, lambda proto: proto.metadata_props.__delitem__(slice(None)))
    assert list(failures(model)) == ["labels", "preprocessing", "layers"]


def test_labels_of_another_model(model: Path) -> None:
    """labels.txt must have the labels of the manifest, one for each class."""
    (model / "labels.txt").write_text("one\ntwo\n")
    reseal(model / "1")
    messages = failures(model)["labels"]
    assert "labels.txt: has 2 labels, but output 'logits' has 10 classes" in messages
    assert "1/manifest.json: labels differ from labels.txt" in messages


def test_changed_weights(model: Path) -> None:
    """A model with changed weights no longer reproduces its test data."""

    def nudge(proto: onnx.ModelProto) -> None:
        weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] > 1)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))

    change_model(model, nudge)
    (message,) = (message for message in failures(model)["test data"] if "output_0.pb" in message)
    assert "output 'logits' of the model differs from this file by" in message


@pytest.mark.parametrize("content", [b"", b"\x08\x80garbage"])
def test_unreadable_test_data(model: Path, content: bytes) -> None:
    """Test data that cannot be read is a failure of that file."""
    (model / "1" / "test_data_set_0" / "output_0.pb").write_bytes(content)
    reseal(model / "1")
    (message,) = failures(model)["test data"]
    assert message.startswith("1/test_data_set_0/output_0.pb: cannot be read as a tensor: ")


@pytest.mark.parametrize("right", [True, False])
def test_test_data_without_a_batch_or_numbers(model: Path, right: bool) -> None:
    """An output that is a scalar or text is compared like any other."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["x"], ["text"], to=onnx.TensorProto.STRING),
        ],
        "other",
        [helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [2])],
        [
            helper.make_tensor_value_info("sum", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [2]),
        ],
    )
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data = model.parent / "other" / "1" / "test_data_set_0"
    data.mkdir(parents=True)
    onnx.save(other, data.parent / "model.onnx")
    values = {"input_0": ("x", [1, 2]), "output_0": ("sum", 3), "output_1": ("text", ["1", "2" if right else "3"])}
    for file, (name, value) in values.items():
        array = np.array(value, object if name == "text" else np.int64)
        (data / f"{file}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    wrong = (
        {}
        if right
        else {"test data": ["1/test_data_set_0/output_1.pb: output 'text' of the model differs from this file"]}
    )
    assert failures(data.parent.parent) == wrong


def test_labels_of_an_output_without_dims(model: Path) -> None:
    """A configuration with labels, but without dims, of an output is a failure, not a traceback."""
    path = model / "config.pbtxt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "dims" not in line))
    reseal(model / "1")
    by_check = failures(model)
    assert "labels.txt: has 10 labels, but output 'logits' has no classes" in by_check.get("labels", by_check)


def test_a_graph_that_does_not_run(model: Path) -> None:
    """An unknown operator is detected by the ONNX checker and by onnxruntime, without a traceback."""
    change_model(model, lambda proto: setattr(proto.graph.node[5], "op_type", "Blur"))
    assert list(failures(model)) == ["format", "shapes", "test data", "pre/postprocessing"]


@pytest.mark.parametrize("path", ["/home/me/nets/net.py", "C:\\networks\\net.py", "file:///srv/nets/net.py"])
def test_path_in_the_model(model: Path, path: str) -> None:
    """The path in a source line that an exporter recorded is detected."""
    change_model(model, lambda proto: setattr(proto.graph.node[3], "doc_string", f'File "{path}", line 3'))
    assert failures(model) == {"paths": [f"1/model.onnx: contains an absolute path: {path}"]}


def test_path_in_the_test_data(model: Path) -> None:
    """Binary files are searched, too."""
    path = model / "1" / "test_data_set_0" / "input_0.pb"
    tensor = onnx.load_tensor(path)
    tensor.doc_string = "made from /home/me/images"
    onnx.save_tensor(tensor, path)
    reseal(model / "1")
    assert failures(model)["paths"] == ["1/test_data_set_0/input_0.pb: contains an absolute path: /home/me/images"]


def test_urls_and_relative_paths(model: Path) -> None:
    """URLs and relative paths are not reported as absolute paths."""
    reseal(model / "1", lambda fields: fields["source"].update(url="https://example.com/a/b", licence="a/b and/or c"))
    assert failures(model) == {}


def test_external_weights(model: Path) -> None:
    """A model with weights in a separate file is checked like any other, that file included."""
    path = model / "1" / "model.onnx"
    proto = onnx.load(path)
    path.unlink()
    onnx.save(proto, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    reseal(model / "1", lambda fields: fields["files"].append({"path": "model.onnx.data"}))
    reseal(model / "1")
    assert failures(model) == {}
    content = bytearray((model / "1" / "model.onnx.data").read_bytes())
    content[77] ^= 1
    (model / "1" / "model.onnx.data").write_bytes(content)
    assert list(failures(model)) == ["files"]
    reseal(model / "1", lambda fields: None)
    content[: len(content) // 2] = bytes(len(content) // 2)
    (model / "1" / "model.onnx.data").write_bytes(content)
    reseal(model / "1")
    assert list(failures(model)) == ["test data"]
