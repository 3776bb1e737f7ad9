"""The whole way from a network to a version on disk."""

import copy
import errno
import hashlib
import json
import os
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
from export.onnx_model.runtime import require_runs
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
    """What stands on disk after an export."""

    def test_layout(self, exported: Exported) -> None:
        """A version holds exactly its files, beside the two that all versions share."""
        assert files_below(exported.folder) == VERSION_FILES
        model = exported.folder.parent
        assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
        assert [path.name for path in model.parent.iterdir()] == ["tiny"]

    def test_interface(self, exported: Exported) -> None:
        """The model takes uint8 images with a free batch, channels last, and gives logits and probabilities."""
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        found = {each.name: (each.type, each.shape) for each in [*session.get_inputs(), *session.get_outputs()]}
        assert found == {
            "image": ("tensor(uint8)", ["batch", 8, 8, 1]),
            "logits": ("tensor(float)", ["batch", 10]),
            "probabilities": ("tensor(float)", ["batch", 10]),
        }

    def test_numbers(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """The file gives what PyTorch gives, at a batch size that the export never saw."""
        images = np.random.default_rng(5).integers(0, 256, (7, 8, 8, 1), np.uint8)
        with torch.no_grad():
            expected = convnet4.network(convnet4.preprocessing.normalise(torch.from_numpy(images)))
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probabilities, expected.softmax(-1), rtol=1e-5, atol=1e-6)

    def test_test_data(self, exported: Exported) -> None:
        """onnxruntime turns test_data_set_0's input into its expected outputs."""
        folder = exported.folder / "test_data_set_0"
        read = {path.stem: onnx.load_tensor(path) for path in folder.iterdir()}
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        inputs = {read["input_0"].name: numpy_helper.to_array(read["input_0"])}
        for index, output in enumerate(session.run(None, inputs)):
            expected = read[f"output_{index}"]
            assert expected.name == session.get_outputs()[index].name
            np.testing.assert_allclose(output, numpy_helper.to_array(expected), rtol=1e-5, atol=1e-5)

    def test_config(self, exported: Exported) -> None:
        """config.pbtxt names the interface, and carries labels and preprocessing to whoever asks for the config."""
        text = (exported.folder.parent / "config.pbtxt").read_text()
        config = text_format.Parse(text, inference.ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 32)
        assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
            ("image", inference.TYPE_UINT8, [8, 8, 1])
        ]
        assert [(each.name, list(each.dims), each.label_filename) for each in config.output] == [
            ("logits", [10], "labels.txt"),
            ("probabilities", [10], "labels.txt"),
        ]
        rule = json.loads(config.parameters["zoonnx.preprocessing"].string_value)
        assert (rule["height"], rule["width"], rule["channels"]) == (8, 8, 1)
        labels = (exported.folder.parent / "labels.txt").read_text().split()
        assert json.loads(config.parameters["zoonnx.labels"].string_value) == labels

    def test_manifest_hashes(self, exported: Exported) -> None:
        """The manifest names every other file with its hash, and its own canonical hash."""
        promise = read_manifest(exported.folder)
        expected = {*VERSION_FILES, "../config.pbtxt", "../labels.txt"} - {"manifest.json"}
        assert {file.path for file in promise.files} == expected
        for file in promise.files:
            content = (exported.folder / file.path).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.bytes)
        assert canonical_sha256(json.loads((exported.folder / "manifest.json").read_text())) == promise.sha256

    def test_parity_is_recorded(self, exported: Exported) -> None:
        """Both outputs were compared with PyTorch at batches 1, 2, 3 and 5."""
        checks = read_manifest(exported.folder).parity.checks
        expected = [(batch, output) for batch in (1, 2, 3, 5) for output in ("logits", "probabilities")]
        assert [(check.batch, check.output) for check in checks] == expected
        assert all(0 <= check.max_abs_error <= check.tolerance for check in checks)

    def test_no_absolute_path(self, exported: Exported) -> None:
        """No file of the version holds a path of the machine that made it."""
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
    """The page beside the repository."""

    def test_page(self, exported: Exported) -> None:
        """Every layer has its row; witnesses, seconds and versions stand there."""
        page = (exported.folder.parents[2] / "reports" / "tiny" / "1" / "export.md").read_text()
        for layer in exported.manifest.layer_map.layers:
            assert f"| {layer.name} | {layer.kind} |" in page
        assert "| act2 | ReLU | exact | N x 32 x 8 x 8 | 5 x 5 |" in page
        assert "12 of 12 module outputs" in page
        assert f"onnxruntime {onnxruntime.__version__}" in page
        assert "| converting to ONNX |" in page
        assert "| running PyTorch in float64 |" in page


class TestVersions:
    """Exports into a repository that holds models already."""

    def test_next_version(self, exported: Exported, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A new export of the same promise is the next version; what stood there keeps its bytes."""
        model = tmp_path / "tiny"
        shutil.copytree(exported.folder.parent, model)
        before = {name: (model / name).read_bytes() for name in files_below(model)}
        second = export_model(convnet4, ExportSettings(to=tmp_path, name="tiny"))
        assert (second.version, second.folder) == (2, model / "2")
        assert {name: (model / name).read_bytes() for name in before} == before
        assert files_below(second.folder) == VERSION_FILES
        assert [path.name for path in tmp_path.iterdir()] == ["tiny"]

    def test_conflict(self, exported: Exported, convnet4: LoadedNetwork) -> None:
        """An export that would change the shared config is refused, and the folder stays as it was."""
        model = exported.folder.parent
        before = files_below(model)
        settings = ExportSettings(to=model.parent, name="tiny", max_batch_size=8)
        with pytest.raises(RepositoryConflictError, match="choose another --name"):
            export_model(convnet4, settings)
        assert files_below(model) == before

    @pytest.mark.parametrize("labels", [(), tuple("abcdefghij"), tuple(map(str, reversed(range(10))))])
    def test_other_labels(self, exported: Exported, convnet4: LoadedNetwork, labels: tuple[str, ...]) -> None:
        """So is one with other labels, the same labels in another order, or none."""
        model = exported.folder.parent
        before = {name: (model / name).read_bytes() for name in files_below(model)}
        with pytest.raises(RepositoryConflictError, match="choose another --name"):
            export_model(replace(convnet4, labels=labels), ExportSettings(to=model.parent, name="tiny"))
        assert {name: (model / name).read_bytes() for name in files_below(model)} == before


class TestRefusals:
    """A network that cannot be exported leaves nothing behind."""

    def refused(self, loaded: LoadedNetwork, tmp_path: Path, message: str) -> None:
        with pytest.raises(ExportError, match=message):
            export_model(loaded, ExportSettings(to=tmp_path / "models", name="refused"))
        assert list(tmp_path.iterdir()) == []

    def changed(self, convnet4: LoadedNetwork, network: torch.nn.Module) -> LoadedNetwork:
        return LoadedNetwork(network, "n", "n", convnet4.labels, convnet4.preprocessing, convnet4.weights)

    def test_training_mode(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A network in training mode is refused, by the module's name."""
        network = copy.deepcopy(convnet4.network)
        network.bn2.train()
        self.refused(self.changed(convnet4, network), tmp_path, "'bn2'.*call network.eval")

    def test_nan_weights(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A weight that is not a number is named."""
        network = copy.deepcopy(convnet4.network)
        network.conv3.weight.data[0, 0, 0, 0] = float("nan")
        self.refused(self.changed(convnet4, network), tmp_path, "'conv3.weight' holds 1 values")

    def test_data_dependent_control_flow(
        self, convnet4: LoadedNetwork, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A network that branches on its data cannot be one graph; the exporter's own chatter is held back."""

        class Branching(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = torch.nn.Linear(64, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.fc(x.flatten(1))
                return y if y.mean() > -1e9 else -y

        self.refused(
            self.changed(convnet4, Branching().eval()),
            tmp_path,
            r"Branching: its forward decides by the values .* at test_pipeline.py:\d+: return y if y.mean",
        )
        assert capfd.readouterr() == ("", "")

    def test_unsupported_operation(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """An operation that ONNX lacks is named, with its module and its line."""

        class Bessel(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.special.bessel_j0(x)

        class Odd(torch.nn.Sequential):
            pass

        network = Odd(torch.nn.Flatten(), torch.nn.Linear(64, 10), Bessel()).eval()
        words = r"no translation of prims.bessel_j0 in module '2' at test_pipeline.py:\d+: return torch.special"
        self.refused(self.changed(convnet4, network), tmp_path, words)

    def test_operation_made_of_another(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """An operation that torch.onnx makes of the network's own has the line of the network's own."""

        class Odd(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.linalg.svdvals(x[..., None]).expand(-1, 10)

        network = torch.nn.Sequential(torch.nn.Flatten(), Odd()).eval()
        words = r"no translation of aten._linalg_svd in module '1' at test_pipeline.py:\d+: return torch.linalg"
        self.refused(self.changed(convnet4, network), tmp_path, words)

    def test_opset_that_the_runtime_does_not_know(self) -> None:
        """The runtime itself is asked what it runs."""
        require_runs(23)
        with pytest.raises(ConversionError, match=r"opset 99 is newer than what onnxruntime .* runs, which is \d\d:"):
            require_runs(99)

    def test_read_only_target(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A repository that cannot be written to is said so before anything is computed, and stays as it was."""
        (tmp_path / "models").write_text("a file where a folder should be")
        steps: list[str] = []
        with pytest.raises(RepositoryError, match="models is no folder: give another place with --to"):
            export_model(convnet4, ExportSettings(to=tmp_path / "models", name="n"), steps.append)
        assert steps == []
        assert [path.name for path in tmp_path.iterdir()] == ["models"]

    def test_full_target(self, convnet4: LoadedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the disk is full halfway, nothing of the version stays."""

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(repository.os, "fsync", full)
        with pytest.raises(TargetError, match="No space left on device; nothing was changed there"):
            export_model(convnet4, ExportSettings(to=tmp_path / "models", name="n"))
        assert files_below(tmp_path) == []

    @pytest.mark.parametrize(
        ("forward", "words"),
        [
            (lambda x: x.flatten(1) @ torch.ones(3, 10), "fails on an input of 1x8x8: RuntimeError"),
            (lambda x: x.flatten(1).long(), "one float tensor of .N, classes.; it gives torch.int64"),
            (lambda x: (x.flatten(1), x), "it gives tuple"),
            (
                lambda x: torch.dropout(x.flatten(1)[:, :10], 0.5, True),
                "other logits for the same images each time",
            ),
            (
                lambda x: x.flatten(1)[:, :10] - x.flatten(1)[:, :10].mean(),
                "depend on the other images of its batch",
            ),
            (lambda x: x.flatten(1).mean(0, keepdim=True), "logits for 5 images are 1 rows"),
            (lambda x: (x.flatten(1) + 1) * 3e38, "are not all finite"),
            (lambda x: x, r"it gives torch.float32 of \[5, 1, 8, 8\]"),
        ],
    )
    def test_no_logits(
        self, convnet4: LoadedNetwork, tmp_path: Path, forward: Callable[[torch.Tensor], torch.Tensor], words: str
    ) -> None:
        """A network that fails, or gives something other than logits, is refused before anything is converted."""

        class Odd(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return forward(x)

        self.refused(self.changed(convnet4, Odd().eval()), tmp_path, words)

    @pytest.mark.parametrize("mark", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
    def test_labels_with_line_breaks(self, convnet4: LoadedNetwork, tmp_path: Path, mark: str) -> None:
        """labels.txt has one label a line, so no label may hold what any reader takes for the end of one."""
        for label in (f"a{mark}b", f"a{mark}"):
            self.refused(replace(convnet4, labels=(*"abcdefghi", label)), tmp_path, "holds a line break")

    def test_wrong_labels(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """As many labels as classes."""
        loaded = LoadedNetwork(convnet4.network, "n", "n", ("a", "b"), convnet4.preprocessing, convnet4.weights)
        with pytest.raises(UnsupportedNetworkError, match="the labels are 2, and the network has 10 classes"):
            export_model(loaded, ExportSettings(to=tmp_path, name="refused"))
        assert list(tmp_path.iterdir()) == []
