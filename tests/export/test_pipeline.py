"""The export from a network to a version on disk."""

import copy
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import json_format, text_format
from onnx import numpy_helper

from export import Exported, ExportSettings, export_model
from export.artifact import repository
from export.artifact.manifest_json import canonical_sha256
from export.errors import (
    ConversionError,
    ExportError,
    RepositoryConflictError,
    RepositoryError,
    TargetError,
    UnsupportedNetworkError,
)
from export.onnx_model.runtime import require_supported_opset
from protos import inference, manifest
from zoo import LoadedNetwork

VERSION_FILES = [
    "manifest.json",
    "model.onnx",
    "test_data_set_0/input_0.pb",
    "test_data_set_0/output_0.pb",
    "test_data_set_0/output_1.pb",
]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_manifest(folder: Path) -> manifest.Manifest:
    return json_format.Parse((folder / "manifest.json").read_text(), manifest.Manifest())


class TestArtifact:
    """The files on disk after an export."""

    def test_layout(self, exported: Exported) -> None:
        """A version holds exactly its own files; two more are shared by all versions."""
        assert files_below(exported.folder) == VERSION_FILES
        model = exported.folder.parent
        assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
        assert [path.name for path in model.parent.iterdir()] == ["tiny"]

    def test_interface(self, exported: Exported) -> None:
        """The model accepts uint8 images with a dynamic batch, channels last, and outputs logits and probabilities."""
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        tensors = [*session.get_inputs(), *session.get_outputs()]
        assert {tensor.name: (tensor.type, tensor.shape) for tensor in tensors} == {
            "image": ("tensor(uint8)", ["batch", 8, 8, 1]),
            "logits": ("tensor(float)", ["batch", 10]),
            "probabilities": ("tensor(float)", ["batch", 10]),
        }

    def test_numbers(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """The file computes the same as PyTorch, at a batch size that the export did not check."""
        images = np.random.default_rng(5).integers(0, 256, (7, 8, 8, 1), np.uint8)
        with torch.no_grad():
            expected = convnet4.network(convnet4.preprocessing.normalise(torch.from_numpy(images)))
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probabilities, expected.softmax(-1), rtol=1e-5, atol=1e-6)

    def test_test_data(self, exported: Exported) -> None:
        """onnxruntime computes the expected outputs of test_data_set_0 from its input."""
        folder = exported.folder / "test_data_set_0"
        tensors = {path.stem: onnx.load_tensor(path) for path in folder.iterdir()}
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        inputs = {tensors["input_0"].name: numpy_helper.to_array(tensors["input_0"])}
        for index, output in enumerate(session.run(None, inputs)):
            expected = tensors[f"output_{index}"]
            assert expected.name == session.get_outputs()[index].name
            np.testing.assert_allclose(output, numpy_helper.to_array(expected), rtol=1e-5, atol=1e-5)

    def test_config(self, exported: Exported) -> None:
        """config.pbtxt holds the model's tensors, and labels and preprocessing as parameters."""
        text = (exported.folder.parent / "config.pbtxt").read_text()
        config = text_format.Parse(text, inference.ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 32)
        assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
            ("image", inference.TYPE_UINT8, [8, 8, 1])
        ]
        assert [(tensor.name, list(tensor.dims), tensor.label_filename) for tensor in config.output] == [
            ("logits", [10], "labels.txt"),
            ("probabilities", [10], "labels.txt"),
        ]
        preprocessing = json.loads(config.parameters["zoonnx.preprocessing"].string_value)
        assert (preprocessing["height"], preprocessing["width"], preprocessing["channels"]) == (8, 8, 1)
        labels = (exported.folder.parent / "labels.txt").read_text().split()
        assert json.loads(config.parameters["zoonnx.labels"].string_value) == labels

    def test_manifest_hashes(self, exported: Exported) -> None:
        """The manifest holds the hash of every other file, and its own canonical hash."""
        written = read_manifest(exported.folder)
        expected = {*VERSION_FILES, "../config.pbtxt", "../labels.txt"} - {"manifest.json"}
        assert {file.path for file in written.files} == expected
        for file in written.files:
            content = (exported.folder / file.path).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.bytes)
        assert canonical_sha256(json.loads((exported.folder / "manifest.json").read_text())) == written.sha256

    def test_parity_is_recorded(self, exported: Exported) -> None:
        """The manifest lists a comparison with PyTorch of both outputs at batches 1, 2, 3 and 5."""
        checks = read_manifest(exported.folder).parity.checks
        expected = [(batch, output) for batch in (1, 2, 3, 5) for output in ("logits", "probabilities")]
        assert [(check.batch, check.output) for check in checks] == expected
        assert all(0 <= check.max_abs_error <= check.tolerance for check in checks)

    def test_no_absolute_path(self, exported: Exported) -> None:
        """No file of the version contains a path of the exporting machine."""
        for name in VERSION_FILES:
            content = (exported.folder / name).read_bytes()
            assert str(Path.home()).encode() not in content
            assert b".py" not in content, name

    def test_same_bytes_again(self, exported: Exported, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A second export of the same network writes the same bytes."""
        again = export_model(convnet4, ExportSettings(to=tmp_path, name="tiny"))
        for name in VERSION_FILES:
            assert (again.folder / name).read_bytes() == (exported.folder / name).read_bytes(), name


class TestReport:
    """The report beside the repository."""

    def test_page(self, exported: Exported) -> None:
        """The report has a row per layer, and shows witnesses, seconds and versions."""
        page = (
            exported.folder.parents[2] / "reports" / exported.folder.parents[1].name / "tiny" / "1" / "export.md"
        ).read_text()
        for layer in exported.manifest.layer_map.layers:
            assert f"| {layer.name} | {layer.kind} |" in page
        assert "| act2 | ReLU | exact | N x 32 x 8 x 8 | 5 x 5 |" in page
        assert "12 of 12 module outputs" in page
        assert f"onnxruntime {onnxruntime.__version__}" in page
        assert "| converting to ONNX |" in page
        assert "| running PyTorch in float64 |" in page


class TestVersions:
    """Exports into a repository that already holds models."""

    def test_next_version(self, exported: Exported, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A new export with the same signature becomes the next version; existing files keep their bytes."""
        model = tmp_path / "tiny"
        shutil.copytree(exported.folder.parent, model)
        before = {name: (model / name).read_bytes() for name in files_below(model)}
        second = export_model(convnet4, ExportSettings(to=tmp_path, name="tiny"))
        assert (second.version, second.folder) == (2, model / "2")
        assert {name: (model / name).read_bytes() for name in before} == before
        assert files_below(second.folder) == VERSION_FILES
        assert [path.name for path in tmp_path.iterdir()] == ["tiny"]

    def test_conflict(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """An export that would change the shared config is rejected, and the folder is unchanged."""
        model = exported.folder.parent
        before = files_below(model)
        settings = ExportSettings(to=model.parent, name="tiny", max_batch_size=8)
        with pytest.raises(RepositoryConflictError, match="choose another --name"):
            export_model(convnet4, settings)
        assert files_below(model) == before

    @pytest.mark.parametrize("labels", [(), tuple("abcdefghij"), tuple(map(str, reversed(range(10))))])
    def test_other_labels(self, exported: Exported, convnet4: LoadedNetwork, labels: tuple[str, ...]) -> None:
        """An export with other labels, reordered labels or no labels is rejected."""
        model = exported.folder.parent
        before = {name: (model / name).read_bytes() for name in files_below(model)}
        with pytest.raises(RepositoryConflictError, match="choose another --name"):
            export_model(replace(convnet4, labels=labels), ExportSettings(to=model.parent, name="tiny"))
        assert {name: (model / name).read_bytes() for name in files_below(model)} == before


class TestRejections:
    """A network that cannot be exported leaves no files."""

    def assert_rejected(self, loaded: LoadedNetwork, tmp_path: Path, message: str) -> None:
        with pytest.raises(ExportError, match=message):
            export_model(loaded, ExportSettings(to=tmp_path / "models", name="rejected"))
        assert list(tmp_path.iterdir()) == []

    def with_network(self, convnet4: LoadedNetwork, network: torch.nn.Module) -> LoadedNetwork:
        return LoadedNetwork(network, "n", "n", convnet4.labels, convnet4.preprocessing, convnet4.weights)

    def test_training_mode(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A network in training mode is rejected with the name of a module in that mode."""
        network = copy.deepcopy(convnet4.network)
        network.bn2.train()
        self.assert_rejected(self.with_network(convnet4, network), tmp_path, "'bn2'.*call network.eval")

    def test_nan_weights(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A network with a NaN weight is rejected with the weight's name."""
        network = copy.deepcopy(convnet4.network)
        network.conv3.weight.data[0, 0, 0, 0] = float("nan")
        self.assert_rejected(self.with_network(convnet4, network), tmp_path, "'conv3.weight' holds 1 values")

    def test_data_dependent_control_flow(
        self, convnet4: LoadedNetwork, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A network that branches on its input is rejected with the line; the exporter's own output is suppressed."""

        class Branching(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = torch.nn.Linear(64, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.fc(x.flatten(1))
                return y if y.mean() > -1e9 else -y

        self.assert_rejected(
            self.with_network(convnet4, Branching().eval()),
            tmp_path,
            r"Branching: its forward reads values of its input .* at test_pipeline.py:\d+: return y if y.mean",
        )
        assert capfd.readouterr() == ("", "")

    def test_unsupported_operation(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """An operation that ONNX lacks is reported with its module and line."""

        class Bessel(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.special.bessel_j0(x)

        class Wrapper(torch.nn.Sequential):
            pass

        network = Wrapper(torch.nn.Flatten(), torch.nn.Linear(64, 10), Bessel()).eval()
        message = r"no translation of prims.bessel_j0 in module '2' at test_pipeline.py:\d+: return torch.special"
        self.assert_rejected(self.with_network(convnet4, network), tmp_path, message)

    def test_operation_of_a_decomposition(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """An operation that stems from a decomposition is reported with the line of the original operation."""

        class SingularValues(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.linalg.svdvals(x[..., None]).expand(-1, 10)

        network = torch.nn.Sequential(torch.nn.Flatten(), SingularValues()).eval()
        message = r"no translation of aten._linalg_svd in module '1' at test_pipeline.py:\d+: return torch.linalg"
        self.assert_rejected(self.with_network(convnet4, network), tmp_path, message)

    def test_opset_that_the_runtime_does_not_support(self) -> None:
        """The newest supported opset is determined with the installed onnxruntime."""
        require_supported_opset(23)
        with pytest.raises(ConversionError, match=r"onnxruntime .* supports opsets up to \d\d, not 99:"):
            require_supported_opset(99)

    def test_read_only_target(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A repository that cannot be written to is reported before the first step, and is unchanged."""
        (tmp_path / "models").write_text("a file where a folder should be")
        steps: list[str] = []
        with pytest.raises(RepositoryError, match="models is not a folder; choose another with --to"):
            export_model(convnet4, ExportSettings(to=tmp_path / "models", name="n"), steps.append)
        assert steps == []
        assert [path.name for path in tmp_path.iterdir()] == ["models"]

    def test_full_target(self, convnet4: LoadedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the disk fills up during the export, no file of the version remains."""

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(repository.os, "fsync", full)
        with pytest.raises(TargetError, match="No space left on device; nothing was changed"):
            export_model(convnet4, ExportSettings(to=tmp_path / "models", name="n"))
        assert files_below(tmp_path) == []

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (lambda x: x.flatten(1) @ torch.ones(3, 10), "fails on an input of 1x8x8: RuntimeError"),
            (lambda x: x.flatten(1).long(), "one float tensor of .N, classes.; it returns torch.int64"),
            (lambda x: (x.flatten(1), x), "it returns tuple"),
            (
                lambda x: torch.dropout(x.flatten(1)[:, :10], 0.5, True),
                "logits for the same images differ in each run",
            ),
            (
                lambda x: x.flatten(1)[:, :10] - x.flatten(1)[:, :10].mean(),
                "depend on the other images of its batch",
            ),
            (lambda x: x.flatten(1).mean(0, keepdim=True), "logits for 5 images have 1 rows"),
            (lambda x: (x.flatten(1) + 1) * 3e38, "are not all finite"),
            (lambda x: x, r"it returns torch.float32 of \[5, 1, 8, 8\]"),
        ],
    )
    def test_no_logits(
        self, convnet4: LoadedNetwork, tmp_path: Path, forward: Callable[[torch.Tensor], torch.Tensor], message: str
    ) -> None:
        """A network that fails, or returns something other than logits, is rejected before the conversion."""

        class Custom(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return forward(x)

        self.assert_rejected(self.with_network(convnet4, Custom().eval()), tmp_path, message)

    @pytest.mark.parametrize("label", ["a\nb", "a\n", "a\r", "\ufeffa", "a\udc80"])
    def test_unwritable_labels(self, convnet4: LoadedNetwork, tmp_path: Path, label: str) -> None:
        """A label that no reader of labels.txt would get back is rejected."""
        loaded = replace(convnet4, labels=(*"abcdefghi", label))
        self.assert_rejected(loaded, tmp_path, f"labels.txt cannot hold the label {re.escape(repr(label))}")

    def test_wrong_number_of_labels(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """The number of labels must equal the number of classes."""
        loaded = LoadedNetwork(convnet4.network, "n", "n", ("a", "b"), convnet4.preprocessing, convnet4.weights)
        with pytest.raises(UnsupportedNetworkError, match="got 2 labels for a network with 10 classes"):
            export_model(loaded, ExportSettings(to=tmp_path, name="rejected"))
        assert list(tmp_path.iterdir()) == []
