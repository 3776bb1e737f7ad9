"""Tests of reading a repository and of completing configurations from the graph."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from protos import inference
from serve.engine import batch_probe
from serve.engine.session import Session
from serve.errors import BadModelError, RepositoryError
from serve.repository import layout, model_config, repository
from tests.serve.conftest import read_models, write_identity


def complete_config(folder: Path, text: str | None = None) -> inference.ModelConfig:
    """Return the completed configuration of the only model in `folder`, after writing `text` to its config.pbtxt."""
    if text is not None:
        (folder / "model" / "config.pbtxt").write_text(text)
    (files,) = read_models(folder)
    session = Session.open(files.candidates[0].path, "cpu")
    max_batch_size = batch_probe.max_batch_size(session, files.config, 4, files.name)
    return model_config.complete(files.config, files.name, session.inputs, session.outputs, max_batch_size)


@pytest.fixture
def models_folder(tmp_path: Path) -> Path:
    """A repository with one model, `model`, without a config."""
    write_identity(tmp_path / "model" / "1" / "model.onnx")
    return tmp_path


class TestLayout:
    """Which folders are models, and which of their versions are served."""

    def test_models_by_name(self, models: Path) -> None:
        """Every folder with a version or a configuration is a model; hidden folders, others and files are skipped."""
        expected = [
            "arithmetic",
            "bare",
            "bytes",
            "half",
            "labelled",
            "many",
            "images",
            "picky",
            "text",
            "versions",
            "unbatched",
        ]
        assert [files.name for files in read_models(models)] == sorted(expected)

    def test_one_file(self, models_folder: Path) -> None:
        """A single .onnx file is one model without a configuration."""
        (files,) = read_models(models_folder / "model" / "1" / "model.onnx")
        assert (files.name, [candidate.number for candidate in files.candidates], files.config) == ("model", [1], None)

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ("", [11]),
            ("version_policy { latest { num_versions: 2 } }", [11, 9]),
            ("version_policy { all {} }", [11, 9, 2]),
            ("version_policy { specific { versions: [2, 11, 5] } }", [11, 2]),
        ],
    )
    def test_version_policy(self, tmp_path: Path, policy: str, expected: list[int]) -> None:
        """Versions are numbers without leading zeros; without a policy the newest is served."""
        for version in ("2", "9", "11", "old", "03"):
            write_identity(tmp_path / "model" / version / "model.onnx")
        (tmp_path / "model" / "config.pbtxt").write_text(policy)
        (files,) = read_models(tmp_path)
        assert [candidate.number for candidate in files.candidates[: files.served_count]] == expected

    @pytest.mark.parametrize(
        ("path_in", "message"),
        [
            (lambda folder: folder / "nowhere", "is neither a folder nor an .onnx file"),
            (lambda folder: folder / "model", "is itself a model"),
            (lambda folder: folder / "model" / "1", "is a version of a model: pass the folder that contains the model"),
        ],
    )
    def test_path_without_models(self, models_folder: Path, path_in: Callable[[Path], Path], message: str) -> None:
        """The error for a path without models names the path to pass instead."""
        with pytest.raises(RepositoryError, match=message):
            read_models(path_in(models_folder))

    def test_misplaced_models(self, models_folder: Path) -> None:
        """Each visible file or folder in the wrong place has a sentence that says where a model belongs."""
        write_identity(models_folder / "foo.onnx")
        write_identity(models_folder / "flat" / "net.onnx")
        write_identity(models_folder / "named" / "v1" / "model.onnx")
        (models_folder / "README.md").write_text("")
        (models_folder / ".git").mkdir()
        assert layout.list_names(models_folder) == ["model"]
        assert [sentence.replace(f"{models_folder}/", "") for sentence in layout.misplaced(models_folder)] == [
            "flat is not served: move flat/net.onnx to flat/1/model.onnx.",
            "foo.onnx is not served: move it to foo/1/model.onnx.",
            "named is not served: it needs a version folder: put the model at named/1/model.onnx.",
        ]

    def test_nothing_to_serve(self, tmp_path: Path) -> None:
        """The message for a repository without models says where to put a file that is there, or how to make one."""
        assert layout.nothing_to_serve(tmp_path).endswith(f"'zoonnx export NETWORK --to {tmp_path}' writes one.")
        write_identity(tmp_path / "foo.onnx")
        assert layout.nothing_to_serve(tmp_path) == (
            f"{tmp_path} holds no model: {tmp_path}/foo.onnx is not served: move it to {tmp_path}/foo/1/model.onnx."
        )

    def test_a_model_of_several_files(self, tmp_path: Path) -> None:
        """A folder model.onnx with model.onnx in it is Triton's layout for a model of several files."""
        path = write_identity(tmp_path / "model" / "1" / "model.onnx" / "model.onnx")
        (files,) = read_models(tmp_path)
        before = repository.fingerprint(tmp_path / "model")
        assert files.candidates[0].read().path == path
        (path.parent / "weights.bin").write_bytes(b"0")
        assert repository.fingerprint(tmp_path / "model") != before


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


INVALID_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown field": (
        write("config.pbtxt", "max_batch: 4"),
        'config.pbtxt cannot be read .*no field named "max_batch"',
    ),
    "other name": (write("config.pbtxt", 'name: "other"'), "has the name 'other', but its folder is 'model'"),
    "no version": (
        write("config.pbtxt", "version_policy { specific { versions: [7, 3] } }"),
        "has no version to serve: config.pbtxt selects version 3, 7, but the folder has 1",
    ),
    "no version folder": (
        lambda folder: (
            write("config.pbtxt", "")(folder),
            (folder / "1" / "model.onnx").rename(folder / "model.onnx"),
            (folder / "1").rmdir(),
        ),
        "model has no version to serve: move .*/model/model.onnx to .*/model/1/model.onnx",
    ),
    "no file": (lambda folder: (folder / "1" / "model.onnx").unlink(), "model.onnx is missing"),
    "no labels": (write("config.pbtxt", 'output { name: "y" label_filename: "l.txt" }'), "l.txt is missing: .*'y'"),
    "labels outside the folder": (
        write("config.pbtxt", 'output { name: "y" label_filename: "../l.txt" }'),
        "'../l.txt', which is outside the model's folder",
    ),
    "file outside the folder": (
        write("config.pbtxt", 'default_model_filename: "/tmp/model.onnx"'),
        "'/tmp/model.onnx', which is outside",
    ),
    "bad manifest": (write("1/manifest.json", "{"), "manifest.json cannot be read"),
    "other file": (
        write("1/manifest.json", '{"files": [{"path": "model.onnx", "sha256": "00"}]}'),
        "model.onnx is not the file that its manifest.json describes",
    ),
}


@pytest.mark.parametrize(("change", "message"), INVALID_FILES.values(), ids=INVALID_FILES)
def test_invalid_files(models_folder: Path, change: Callable[[Path], object], message: str) -> None:
    """Inconsistent files are an error that names the file."""
    change(models_folder / "model")
    with pytest.raises(BadModelError, match=message):
        read_models(models_folder)[0].candidates[0].read()


def test_labels_of_other_programs(models_folder: Path) -> None:
    """In a labels.txt from elsewhere, only line feeds end a label: no class has the name of its neighbour."""
    (models_folder / "model" / "config.pbtxt").write_text('output { name: "y" label_filename: "labels.txt" }')
    (models_folder / "model" / "labels.txt").write_bytes("\ufeffcat\r\ndog\r\nbird\u2028x\r\nowl\r\n".encode())
    (files,) = read_models(models_folder)
    assert files.labels == {"y": ["cat", "dog", "bird\u2028x", "owl"]}


def test_matching_manifest(models_folder: Path) -> None:
    """A manifest with the file's checksum is read."""
    path = models_folder / "model" / "1" / "model.onnx"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "manifest.json").write_text(
        f'{{"name": "m", "files": [{{"path": "model.onnx", "sha256": "{digest}"}}]}}'
    )
    (files,) = read_models(models_folder)
    manifest = files.candidates[0].read().manifest
    assert manifest is not None
    assert manifest.name == "m"


class TestCompletion:
    """Completing absent and partial configurations."""

    def test_absent(self, models_folder: Path) -> None:
        """Without a config, a graph with a dynamic first dimension has batches of up to 4, as on Triton."""
        config = complete_config(models_folder)
        assert (config.name, config.max_batch_size, config.platform) == ("model", 4, "onnxruntime_onnx")
        assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.output] == [
            ("y", inference.TYPE_FP32, [3])
        ]

    def test_absent_for_a_fixed_graph(self, tmp_path: Path) -> None:
        """Without a config, a graph of fixed shape has no batches, and dims are full shapes."""
        write_identity(tmp_path / "model" / "1" / "model.onnx", (2, 3))
        config = complete_config(tmp_path)
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 3])

    def test_absent_for_a_scalar(self, tmp_path: Path) -> None:
        """Without a config, a graph of scalars has no batches."""
        write_identity(tmp_path / "model" / "1" / "model.onnx", ())
        config = complete_config(tmp_path)
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [])

    def test_partial(self, models_folder: Path) -> None:
        """Written fields stay, and missing ones are filled from the graph."""
        config = complete_config(models_folder, 'max_batch_size: 7 input { name: "x" format: FORMAT_NONE }')
        assert (config.max_batch_size, list(config.input[0].dims), config.output[0].name) == (7, [3], "y")

    def test_signature_includes_the_batch(self, models_folder: Path) -> None:
        """The signature's shapes begin with the batch; dims do not."""
        assert model_config.signature(complete_config(models_folder)).inputs[0].shape == (-1, 3)

    def test_dynamic_dims_may_be_fixed(self, tmp_path: Path) -> None:
        """A config may fix a size that is dynamic in the graph."""
        write_identity(tmp_path / "model" / "1" / "model.onnx", ("n", "w"))
        config = complete_config(tmp_path, 'max_batch_size: 2 input { name: "x" dims: 5 }')
        assert list(config.input[0].dims) == [5]


CONTRADICTIONS = {
    'max_batch_size: 4 input { name: "z" }': "lacks the graph's input 'x'",
    'max_batch_size: 4 output { name: "z" }': "'z': config.pbtxt lists it, but the graph has only y",
    'max_batch_size: 4 input { name: "x" data_type: TYPE_INT8 }': "has TYPE_INT8, the graph TYPE_FP32",
    'max_batch_size: 4 input { name: "x" dims: 4 }': r"has dims \[4\], the graph \[3\]",
    'max_batch_size: 4 input { name: "x" dims: [-1, 3] }': r"has dims \[-1, 3\], the graph \[3\]",
    "max_batch_size: -1": "max_batch_size must be 0 or more",
    'backend: "tensorflow"': "a backend other than onnxruntime",
    "ensemble_scheduling {}": "ensemble_scheduling",
    "sequence_batching {}": "sequence_batching",
    "model_transaction_policy { decoupled: true }": "a decoupled transaction policy",
    'input { name: "x" reshape { shape: 3 } }': "reshape",
    'input { name: "x" allow_ragged_batch: true }': "allow_ragged_batch",
    'input { name: "x" optional: true }': "optional inputs",
    "batch_input {}": "batch_input or batch_output",
    'model_operations { op_library_filename: "f.so" }': "a custom operator library",
}


@pytest.mark.parametrize(("text", "message"), CONTRADICTIONS.items())
def test_contradiction(models_folder: Path, text: str, message: str) -> None:
    """A config that contradicts the graph or is not supported is an error that names the field."""
    with pytest.raises(BadModelError, match=f"model 'model'.*{message}"):
        complete_config(models_folder, text)


def test_batches_of_a_fixed_graph(tmp_path: Path) -> None:
    """A batch size for a graph of fixed shape is an error with both remedies."""
    write_identity(tmp_path / "model" / "1" / "model.onnx", (2, 3))
    with pytest.raises(BadModelError, match=r"shape is \[2, 3\]: set max_batch_size to 0, or export"):
        complete_config(tmp_path, "max_batch_size: 4")


class TestLoading:
    """Files that onnxruntime or the protocol rejects."""

    def test_not_a_model(self, tmp_path: Path) -> None:
        """The error for a file that is not a model has its name and the runtime's reason."""
        (tmp_path / "model.onnx").write_bytes(b"not a model")
        with pytest.raises(BadModelError, match=r"model\.onnx cannot be loaded by onnxruntime .*[Pp]rotobuf"):
            Session.open(tmp_path / "model.onnx", "cpu")

    def test_future_operators(self, tmp_path: Path) -> None:
        """A file with a newer opset than the runtime's is an error."""
        path = write_identity(tmp_path / "model.onnx")
        model = onnx.load(path)
        model.opset_import[0].version = 1000
        onnx.save(model, path)
        with pytest.raises(BadModelError, match="opset"):
            Session.open(path, "cpu")

    def test_zipmap(self, tmp_path: Path) -> None:
        """The error for a scikit-learn model with a ZipMap names the converter's option."""
        path = tmp_path / "model.onnx"
        node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
        kind = helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        )
        graph = helper.make_graph(
            [node],
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_value_info("y", kind)],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        with pytest.raises(BadModelError, match=r"'y' has type seq\(map.*options=\{id\(model\): \{\"zipmap\": False"):
            Session.open(path, "cpu")

    def test_datatype_that_the_protocol_lacks(self, tmp_path: Path) -> None:
        """Complex tensors, which the protocol lacks, are an error when the file is loaded."""
        path = write_identity(tmp_path / "model.onnx", ("n", 3), TensorProto.COMPLEX64)
        with pytest.raises(BadModelError, match=r"complex64"):
            Session.open(path, "cpu")


@pytest.mark.parametrize("models", [Path("m"), Path("m").resolve()])
def test_paths_are_redacted(models: Path) -> None:
    """The repository's path is removed, both unresolved and resolved; all other text stays."""
    text = f"{models}/a/1/model.onnx, {models.resolve()}/a and {models.resolve()}: from/m/b, mm/c"
    assert repository.redact_paths(text, models, "a", 1) == "a/1/model.onnx, a and the repository: from/m/b, mm/c"
