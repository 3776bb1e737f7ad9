"""Where all hashes fit, what stands in the files is still compared: each lie is found, in the file where it stands."""

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


def faults(model: Path) -> dict[str, list[str]]:
    """The faults by check, without the model's folder."""
    return {
        finding.check: [f"{fault.file.removeprefix(f'{model}/')}: {fault.words}" for fault in finding.faults]
        for report in check_model(model)
        for finding in report.findings
        if finding.faults
    }


def layer(fields: Fields, name: str) -> Fields:
    return next(each for each in fields["layer_map"]["layers"] if each["name"] == name)


MANIFEST_LIES: dict[str, tuple[Callable[[Fields], Any], str, str]] = {
    "opset": (
        lambda fields: fields["format"].update(opset=19),
        "format",
        "1/model.onnx: it has opset 20; manifest.json promises 19",
    ),
    "ir": (
        lambda fields: fields["format"].update(ir_version=9),
        "format",
        "1/model.onnx: it has IR version 10; manifest.json promises 9",
    ),
    "input": (
        lambda fields: fields["inputs"][0].update(shape=[-1, 9, 8, 1]),
        "interface",
        "1/model.onnx: input 'image' is UINT8 of [-1, 8, 8, 1]; manifest.json says UINT8 of [-1, 9, 8, 1]",
    ),
    "output": (
        lambda fields: fields["outputs"].pop(),
        "interface",
        "1/model.onnx: output 'probabilities' is FP32 of [-1, 10]; manifest.json says not there",
    ),
    "name": (
        lambda fields: fields.update(name="other"),
        "interface",
        "1/manifest.json: it is of a model 'other', but its folder is 'bottleneck4'",
    ),
    "labels": (
        lambda fields: fields["labels"].reverse(),
        "labels",
        "1/manifest.json: its labels are not those of labels.txt",
    ),
    "preprocessing": (
        lambda fields: fields["preprocessing"].update(crop_pct=0.9),
        "preprocessing",
        "1/model.onnx: its rule for images is not that of 1/manifest.json",
    ),
    "status": (
        lambda fields: layer(fields, "stem.act").update(kind="GELU"),
        "layers",
        "1/model.onnx: its layer map differs from manifest.json at layer 'stem.act': kind",
    ),
    "layer": (
        lambda fields: fields["layer_map"]["layers"].pop(),
        "layers",
        "1/model.onnx: its layer map has 70 layers; manifest.json promises 69",
    ),
    "shape": (
        lambda fields: layer(fields, "stem.act").update(shape=[-1, 32, 8, 9]),
        "shapes",
        "1/model.onnx: layer 'stem.act' should have the shape [-1, 32, 8, 9]; "
        "onnxruntime gives [1, 32, 8, 8] at batch 1, [3, 32, 8, 8] at batch 3",
    ),
    "parity": (
        lambda fields: fields["parity"].update(checks=[]),
        "test data",
        "1/manifest.json: no parity check of 'logits' at batch 2",
    ),
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a_manifest_that_promises_something_else(model: Path, lie: str) -> None:
    """A manifest whose hashes fit, but which says what is not so."""
    change, check, words = MANIFEST_LIES[lie]
    reseal(model / "1", change)
    assert words.replace("of 1/manifest.json", f"of {model / '1/manifest.json'}") in faults(model)[check]


def test_a_layer_whose_value_is_not_there(model: Path) -> None:
    """A map that names a value which the graph does not have, in the file and in the manifest alike."""
    change_model(
        model,
        lambda proto: helper.set_model_props(
            proto, {p.key: p.value.replace('"value":"stem.act"', '"value":"stem.act2"') for p in proto.metadata_props}
        ),
    )
    reseal(model / "1", lambda fields: layer(fields, "stem.act").update(value="stem.act2"))
    words = "1/model.onnx: layer 'stem.act' should be its value 'stem.act2', which is not there"
    assert words in faults(model)["layers"]


@pytest.mark.parametrize("key", ["zoonnx.labels", "zoonnx.preprocessing", "zoonnx.layers"])
def test_metadata_of_another_model(model: Path, key: str) -> None:
    """What the file says about itself is compared, too."""
    change_model(
        model,
        lambda proto: helper.set_model_props(
            proto, {p.key: '{"a": 1}' if p.key == key else p.value for p in proto.metadata_props}
        ),
    )
    assert list(faults(model)) == [key.removeprefix("zoonnx.")]


def test_metadata_that_is_missing(model: Path) -> None:
    """So is what it no longer says."""
    change_model(model, lambda proto: proto.metadata_props.__delitem__(slice(None)))
    assert list(faults(model)) == ["labels", "preprocessing", "layers"]


def test_labels_of_another_model(model: Path) -> None:
    """labels.txt must be the manifest's, with a label for each class."""
    (model / "labels.txt").write_text("one\ntwo\n")
    reseal(model / "1")
    words = faults(model)["labels"]
    assert "labels.txt: it has 2 labels; output 'logits' has 10 classes" in words
    assert "1/manifest.json: its labels are not those of labels.txt" in words


def test_other_weights(model: Path) -> None:
    """A model that no longer gives PyTorch's numbers departs from its test data."""

    def nudge(proto: onnx.ModelProto) -> None:
        weight = next(each for each in proto.graph.initializer if len(each.dims) == 4 and each.dims[1] > 1)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))

    change_model(model, nudge)
    (words,) = (each for each in faults(model)["test data"] if "output_0.pb" in each)
    assert "the model's 'logits' departs from it by" in words


@pytest.mark.parametrize("content", [b"", b"\x08\x80garbage"])
def test_test_data_that_is_no_tensor(model: Path, content: bytes) -> None:
    """Test data that cannot be read is a fault of that file."""
    (model / "1" / "test_data_set_0" / "output_0.pb").write_bytes(content)
    reseal(model / "1")
    (words,) = faults(model)["test data"]
    assert words.startswith("1/test_data_set_0/output_0.pb: it cannot be read as a tensor: ")


@pytest.mark.parametrize("right", [True, False])
def test_test_data_without_a_batch_or_numbers(model: Path, right: bool) -> None:
    """An output that is one number, or text, is compared as any."""
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
    wrong = {} if right else {"test data": ["1/test_data_set_0/output_1.pb: the model's 'text' is not what it holds"]}
    assert faults(data.parent.parent) == wrong


def test_labels_of_an_output_without_sizes(model: Path) -> None:
    """A configuration that gives an output labels, but no sizes, is a fault, not a traceback."""
    path = model / "config.pbtxt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "dims" not in line))
    reseal(model / "1")
    found = faults(model)
    assert "labels.txt: it has 10 labels; output 'logits' has no classes" in found.get("labels", found)


def test_a_graph_that_does_not_run(model: Path) -> None:
    """A node that is no operation of ONNX's is found by ONNX's checker, and by the runtime, without a traceback."""
    change_model(model, lambda proto: setattr(proto.graph.node[5], "op_type", "Blur"))
    assert list(faults(model)) == ["format", "shapes", "test data", "frame"]


@pytest.mark.parametrize("path", ["/home/me/nets/net.py", "C:\\networks\\net.py", "file:///srv/nets/net.py"])
def test_a_path_in_the_model(model: Path, path: str) -> None:
    """A source line that an exporter noted is found."""
    change_model(model, lambda proto: setattr(proto.graph.node[3], "doc_string", f'File "{path}", line 3'))
    assert faults(model) == {"paths": [f"1/model.onnx: it holds an absolute path of a machine: {path}"]}


def test_a_path_in_the_test_data(model: Path) -> None:
    """Files of bytes are searched, too."""
    path = model / "1" / "test_data_set_0" / "input_0.pb"
    tensor = onnx.load_tensor(path)
    tensor.doc_string = "made from /home/me/images"
    onnx.save_tensor(tensor, path)
    reseal(model / "1")
    assert faults(model)["paths"] == [
        "1/test_data_set_0/input_0.pb: it holds an absolute path of a machine: /home/me/images"
    ]


def test_addresses_are_no_paths(model: Path) -> None:
    """A licence's address and a relative path are not taken for a path of a machine."""
    reseal(model / "1", lambda fields: fields["source"].update(url="https://example.com/a/b", licence="a/b and/or c"))
    assert faults(model) == {}


def test_weights_beside_the_file(model: Path) -> None:
    """A model whose weights stand in a file of their own is checked as any other, that file included."""
    path = model / "1" / "model.onnx"
    proto = onnx.load(path)
    path.unlink()
    onnx.save(proto, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    reseal(model / "1", lambda fields: fields["files"].append({"path": "model.onnx.data"}))
    reseal(model / "1")
    assert faults(model) == {}
    content = bytearray((model / "1" / "model.onnx.data").read_bytes())
    content[77] ^= 1
    (model / "1" / "model.onnx.data").write_bytes(content)
    assert list(faults(model)) == ["files"]
    reseal(model / "1", lambda fields: None)
    content[: len(content) // 2] = bytes(len(content) // 2)
    (model / "1" / "model.onnx.data").write_bytes(content)
    reseal(model / "1")
    assert list(faults(model)) == ["test data"]
