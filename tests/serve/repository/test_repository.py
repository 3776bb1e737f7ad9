"""Reading a repository, and completing what it says from the model's graph."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from protos import inference
from serve.engine.session import Session
from serve.errors import BadModelError, RepositoryError
from serve.repository import model_config, repository
from tests.serve.conftest import write_identity


def config_of(folder: Path, text: str | None = None) -> inference.ModelConfig:
    """The completed configuration of the one model in `folder`, whose config.pbtxt gets `text`."""
    if text is not None:
        (folder / "model" / "config.pbtxt").write_text(text)
    (files,) = repository.read(folder)
    session = Session.open(files.candidates[0].path, "cpu")
    return model_config.complete(files.config, files.name, session.inputs, session.outputs)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with one model, `model`, without a config."""
    write_identity(tmp_path / "model" / "1" / "model.onnx")
    return tmp_path


class TestPlaces:
    """Which folders are models, and which versions of them are served."""

    def test_models_by_name(self, models: Path) -> None:
        """Every folder that looks like a model is one; hidden folders, others and files are passed over."""
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
            "whole",
        ]
        assert [files.name for files in repository.read(models)] == sorted(expected)

    def test_one_file(self, place: Path) -> None:
        """A bare .onnx file is a model of its own."""
        (files,) = repository.read(place / "model" / "1" / "model.onnx")
        assert (files.name, [each.number for each in files.candidates], files.config) == ("model", [1], None)

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
        """Versions are numbers, not words; without a policy the newest is served."""
        for version in ("2", "9", "11", "old", "03"):
            write_identity(tmp_path / "model" / version / "model.onnx")
        (tmp_path / "model" / "config.pbtxt").write_text(policy)
        (files,) = repository.read(tmp_path)
        assert [each.number for each in files.candidates[: files.wanted]] == expected

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda place: place / "nowhere", "is no folder and no .onnx file"),
            (lambda place: place / "model", "is itself a model"),
            (lambda place: place / "model" / "1", "holds no model"),
        ],
    )
    def test_place_without_models(self, place: Path, make: Callable[[Path], Path], words: str) -> None:
        """A place that holds no models is refused, with what to give instead."""
        with pytest.raises(RepositoryError, match=words):
            repository.read(make(place))


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown field": (
        write("config.pbtxt", "max_batch: 4"),
        'config.pbtxt cannot be read .*no field named "max_batch"',
    ),
    "other name": (write("config.pbtxt", 'name: "other"'), "says name 'other', but its folder is 'model'"),
    "no version": (write("config.pbtxt", "version_policy { specific { versions: 7 } }"), "has no version to serve"),
    "no file": (lambda folder: (folder / "1" / "model.onnx").unlink(), "model.onnx is missing"),
    "no labels": (write("config.pbtxt", 'output { name: "y" label_filename: "l.txt" }'), "l.txt is missing: .*'y'"),
    "labels outside": (
        write("config.pbtxt", 'output { name: "y" label_filename: "../l.txt" }'),
        "'../l.txt', which lies outside the model's folder",
    ),
    "file outside": (
        write("config.pbtxt", 'default_model_filename: "/tmp/model.onnx"'),
        "'/tmp/model.onnx', which lies outside",
    ),
    "bad manifest": (write("1/manifest.json", "{"), "manifest.json cannot be read"),
    "other file": (
        write("1/manifest.json", '{"files": [{"path": "model.onnx", "sha256": "00"}]}'),
        "model.onnx is not the file that manifest.json beside it describes",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_spoiled_model(place: Path, spoil: Callable[[Path], object], words: str) -> None:
    """Files that do not fit together are refused, and the message names the file."""
    spoil(place / "model")
    with pytest.raises(BadModelError, match=words):
        repository.read(place)[0].candidates[0].read()


def test_manifest_that_fits(place: Path) -> None:
    """A manifest with the file's own hash is read."""
    path = place / "model" / "1" / "model.onnx"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "manifest.json").write_text(
        f'{{"name": "m", "files": [{{"path": "model.onnx", "sha256": "{digest}"}}]}}'
    )
    (files,) = repository.read(place)
    promise = files.candidates[0].read().promise
    assert promise is not None
    assert promise.name == "m"


class TestCompletion:
    """A configuration may be absent or partial."""

    def test_absent(self, place: Path) -> None:
        """Without a config, a graph with a free first dimension takes batches of 4, as on a Triton."""
        config = config_of(place)
        assert (config.name, config.max_batch_size, config.platform) == ("model", 4, "onnxruntime_onnx")
        assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [
            ("y", inference.TYPE_FP32, [3])
        ]

    def test_absent_for_a_fixed_graph(self, tmp_path: Path) -> None:
        """Without a config, a graph of fixed shape takes no batches, and dims are whole shapes."""
        write_identity(tmp_path / "model" / "1" / "model.onnx", (2, 3))
        config = config_of(tmp_path)
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 3])

    def test_absent_for_a_scalar(self, tmp_path: Path) -> None:
        """A graph whose tensors have no dimensions takes no batches."""
        write_identity(tmp_path / "model" / "1" / "model.onnx", ())
        config = config_of(tmp_path)
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [])

    def test_partial(self, place: Path) -> None:
        """What is written stays, what is missing comes from the graph."""
        config = config_of(place, 'max_batch_size: 7 input { name: "x" format: FORMAT_NONE }')
        assert (config.max_batch_size, list(config.input[0].dims), config.output[0].name) == (7, [3], "y")

    def test_model_s_own_signature_includes_the_batch(self, place: Path) -> None:
        """Shapes in requests begin with the batch, dims do not."""
        assert model_config.signature(config_of(place)).inputs[0].shape == (-1, 3)

    def test_free_dims_may_be_narrowed(self, tmp_path: Path) -> None:
        """A config may fix a size that the graph leaves free."""
        write_identity(tmp_path / "model" / "1" / "model.onnx", ("n", "w"))
        config = config_of(tmp_path, 'max_batch_size: 2 input { name: "x" dims: 5 }')
        assert list(config.input[0].dims) == [5]


CONTRADICTIONS = {
    'max_batch_size: 4 input { name: "z" }': "lacks the graph's input 'x'",
    'max_batch_size: 4 output { name: "z" }': "'z': config.pbtxt names it, but the graph does not have it; it has y",
    'max_batch_size: 4 input { name: "x" data_type: TYPE_INT8 }': "says TYPE_INT8, the graph TYPE_FP32",
    'max_batch_size: 4 input { name: "x" dims: 4 }': r"says dims \[4\], the graph \[3\]",
    'max_batch_size: 4 input { name: "x" dims: [-1, 3] }': r"says dims \[-1, 3\], the graph \[3\]",
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


@pytest.mark.parametrize(("text", "words"), CONTRADICTIONS.items())
def test_contradiction(place: Path, text: str, words: str) -> None:
    """A config that the graph or this server cannot follow is refused, and the message says which part."""
    with pytest.raises(BadModelError, match=f"model 'model'.*{words}"):
        config_of(place, text)


def test_batches_of_a_fixed_graph(tmp_path: Path) -> None:
    """A batch size for a graph of fixed shape is refused with both ways out."""
    write_identity(tmp_path / "model" / "1" / "model.onnx", (2, 3))
    with pytest.raises(BadModelError, match=r"shape is \[2, 3\]: set max_batch_size to 0, or export"):
        config_of(tmp_path, "max_batch_size: 4")


class TestLoading:
    """What onnxruntime refuses."""

    def test_not_a_model(self, tmp_path: Path) -> None:
        """A file that is no model is named, with the runtime's reason."""
        (tmp_path / "model.onnx").write_bytes(b"not a model")
        with pytest.raises(BadModelError, match=r"model\.onnx cannot be loaded by onnxruntime .*[Pp]rotobuf"):
            Session.open(tmp_path / "model.onnx", "cpu")

    def test_future_operators(self, tmp_path: Path) -> None:
        """A file newer than the runtime is refused."""
        path = write_identity(tmp_path / "model.onnx")
        model = onnx.load(path)
        model.opset_import[0].version = 1000
        onnx.save(model, path)
        with pytest.raises(BadModelError, match="opset"):
            Session.open(path, "cpu")

    def test_datatype_that_the_protocol_lacks(self, tmp_path: Path) -> None:
        """Complex numbers have no place in the protocol, which is said at once."""
        path = write_identity(tmp_path / "model.onnx", ("n", 3), TensorProto.COMPLEX64)
        with pytest.raises(BadModelError, match=r"complex64"):
            Session.open(path, "cpu")


@pytest.mark.parametrize("models", [Path("m"), Path("m").resolve()])
def test_paths_as_seen_from_inside(models: Path) -> None:
    """The repository's own place is cut off, as it was given and as it really is; other words stay."""
    words = f"{models}/a/1/model.onnx, {models.resolve()}/a and {models.resolve()}: from/m/b, mm/c"
    found = repository.redact_paths(words, models, "a", 1)
    assert found == "a/1/model.onnx, a and the repository: from/m/b, mm/c"
