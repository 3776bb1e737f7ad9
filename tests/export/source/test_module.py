"""Networks from user code, and models with the raw outputs of their network."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from torch import nn

import zoonnx as dispatcher
from export import ExportSettings, export_model
from export.check.run import check_model
from export.cli.source import SourceOptions, load_source
from export.errors import ExportError, SourceError, UnsupportedNetworkError
from export.interface.network_outputs import named_outputs
from export.source.module import load_function, plain_preprocessing
from protos import inference, manifest

SMALL = plain_preprocessing((3, 8, 8), (0.5,) * 3, (0.25,) * 3)
CODE = """
import sys

from torch import nn

class Net(nn.Sequential):
    pass

def build():
    return Net(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()

def training():
    return build().train()

def needs(width):
    return build()

def number():
    return 3

def leaves():
    sys.exit("no network today")

constant = 7
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module into the current folder and return its name, which is unique to the test."""
    name = "mynets_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "labels.txt").write_text("\ufeffa\nb\nc\nd\ne\n", "utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "gap.txt").write_text("a\n\nc\nd\ne\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return name


class Heads(nn.Module):
    """A network that returns a dict of tensors: some in a tuple, one the input, two the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.conv(x)
        z = self.relu(y) + 1
        return {"conv2d": z.mean((2, 3)), "pair": (y, y.argmax(1)), "input": x, "one": z, "other": z}


class ThroughNumpy(nn.Module):
    """A network that computes a part outside of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x.mean((2, 3)) + (0.0 if torch.compiler.is_exporting() else float(x.numpy().max() * 0))


class TestFunctions:
    """Sources of the form package.module:function."""

    def test_export(self, package: str, tmp_path: Path) -> None:
        """The function's network is exported under the function's name, with the labels of a file."""
        options = SourceOptions(input_size="3,8,8", mean="0.5,0.5,0.5", labels=Path("labels.txt"))
        loaded = load_source(f"{package}:build", options)
        exported = export_model(loaded, ExportSettings(to=tmp_path / "models", name=loaded.name))
        written = exported.manifest
        assert (written.name, written.source.net) == ("build", f"{package}:build")
        assert written.source.weights == manifest.WEIGHTS_GIVEN
        assert list(written.labels) == list("abcde")
        assert (list(written.preprocessing.mean), list(written.preprocessing.std)) == ([0.5] * 3, [1.0] * 3)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("{}:missing", "'missing' does not exist"),
            ("{}:constant", "is a int, not a function"),
            ("{}:number", "must return a torch.nn.Module; it returns int"),
            ("{}:needs", "calling .*:needs without arguments failed: TypeError"),
            ("{}:leaves", "exits the program instead of returning a network: .*no network today"),
            ("no_such.module:build", "there is no module 'no_such.module'"),
        ],
    )
    def test_invalid_source(self, package: str, source: str, message: str) -> None:
        """A source without a network is rejected with the cause."""
        with pytest.raises(SourceError, match=message):
            load_source(source.format(package), SourceOptions(input_size="3,8,8"))

    def test_module_that_exits(self, package: str) -> None:
        """A module that exits with status 0 when it is imported does not end the export with that status."""
        Path(f"{package}_exits.py").write_text("import sys\nsys.exit(0)\n")
        with pytest.raises(SourceError, match=r"importing the module '.*_exits' exits the program"):
            load_source(f"{package}_exits:build", SourceOptions(input_size="3,8,8"))

    @pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
    def test_seed_out_of_range(self, package: str, seed: int) -> None:
        """A seed outside the generator's range is rejected."""
        with pytest.raises(ExportError, match=f"seed must be at least 0 and less than 2\\*\\*32; got {seed}"):
            load_source(f"{package}:build", SourceOptions(seed=seed, input_size="3,8,8"))

    def test_invalid_options(self, package: str) -> None:
        """Missing, malformed and misplaced options of a source are rejected."""
        with pytest.raises(SourceError, match="the input size of Net is unknown: pass `preprocessing`"):
            load_source(f"{package}:build", SourceOptions())
        for source, options, message in (
            (
                "convnet4",
                SourceOptions(input_size="1,8,8"),
                "--input-size: only for package.module:function",
            ),
            (f"{package}:build", SourceOptions(pretrained=True), "has its own weights"),
            (f"{package}.py:build", SourceOptions(), f"Name the module without '.py': {package}:FUNCTION"),
            (f"{package}:build", SourceOptions(mean="1"), "need --input-size"),
            (f"{package}:build", SourceOptions(input_size="3,8,8", std="x"), "--std must be numbers such as"),
            (
                f"{package}:build",
                SourceOptions(input_size="3,8,8", mean="123.675,116.28,103.53"),
                "--mean refers to pixel values from 0 to 1; got '123.675,116.28,103.53': divide",
            ),
            (f"{package}:build", SourceOptions(input_size="3,8,8", std="58,57,57"), "--std refers to pixel values"),
            (f"{package}:build", SourceOptions(input_size="3,8,8", labels=Path("/dev/null")), "not a regular file"),
            (f"{package}:build", SourceOptions(input_size="3,8,8", labels=Path("none.txt")), "cannot read labels"),
            (f"{package}:build", SourceOptions(input_size="3,8,8", labels=Path("empty.txt")), "contains no labels"),
            (
                f"{package}:build",
                SourceOptions(input_size="3,8,8", labels=Path("gap.txt")),
                "line 2 of gap.txt is empty",
            ),
        ):
            with pytest.raises(ExportError, match=message):
                load_source(source, options)

    @pytest.mark.parametrize(
        ("options", "status", "message"),
        [
            (("--input-size", "3,1000000,1000000"), 1, "out of memory: "),
            (("--input-size", "3,8,8", "--min-speedup", "2"), 2, "are for variants: name some with --variants"),
            (("--input-size", "3,8,8", "--target", "cuda"), 2, "are for variants: name some with --variants"),
            (("--input-size", "3,8,8", "--raw", "--std", "0.5"), 2, "a --raw model accepts float32"),
        ],
    )
    def test_errors_on_the_command_line(
        self, package: str, options: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An input that exceeds the memory, and options of variants without --variants, end with one message."""
        with pytest.raises(SystemExit) as end:
            dispatcher.main(["export", f"{package}:build", "--to", "models", *options])
        assert (end.value.code, Path("models").exists()) == (status, False)
        assert message in capsys.readouterr().err

    def test_training_mode(self, package: str, tmp_path: Path) -> None:
        """A network in training mode is rejected with a hint to call eval(), and nothing is written."""
        loaded = load_source(f"{package}:training", SourceOptions(input_size="3,8,8"))
        with pytest.raises(UnsupportedNetworkError, match=r"call network\.eval"):
            export_model(loaded, ExportSettings(to=tmp_path / "models", name="n"))
        assert not (tmp_path / "models").exists()


class TestModules:
    """export_model with a module."""

    def test_raw_outputs(self, tmp_path: Path) -> None:
        """A raw model accepts floats and returns all of the network's outputs by name, as config and manifest state."""
        network = Heads().eval()
        exported = export_model(network, ExportSettings(to=tmp_path, name="raw", raw=True), preprocessing=SMALL)
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
        x = np.random.default_rng(3).standard_normal((4, 3, 8, 8), np.float32)
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, {"x": x}), strict=True))
        with torch.no_grad():
            expected = named_outputs(network(torch.from_numpy(x)))
        assert list(outputs) == list(expected) == ["conv2d", "pair.0", "pair.1", "input", "one", "other"]
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, atol=1e-5)
        written = exported.manifest
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in written.inputs] == [
            ("x", "FP32", [-1, 3, 8, 8])
        ]
        assert (written.HasField("preprocessing"), written.HasField("head")) == (False, False)
        assert {tensor.name: tensor.datatype for tensor in written.outputs}["pair.1"] == "INT64"
        config = text_format.Parse((tmp_path / "raw" / "config.pbtxt").read_text(), inference.ModelConfig())
        assert [tensor.name for tensor in config.output] == list(expected)
        assert {check.output for check in written.parity.checks} == set(expected)
        layers = {layer.name: layer for layer in written.layer_map.layers}
        assert {layers[name].status for name in ("conv", "relu")} == {manifest.EXACT}

    def test_images(self, tmp_path: Path) -> None:
        """Without --raw, the model of any module that returns logits accepts images."""
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
        exported = export_model(
            network, ExportSettings(to=tmp_path, name="n"), preprocessing=SMALL, labels=("no", "yes")
        )
        assert [tensor.name for tensor in exported.manifest.outputs] == ["logits", "probabilities"]
        assert (tmp_path / "n" / "labels.txt").read_text() == "no\nyes\n"

    def test_labels_that_look_like_paths(self, tmp_path: Path) -> None:
        """Labels that look like absolute paths, as those of Open Images, are not reported as paths of the machine."""
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
        export_model(
            network, ExportSettings(to=tmp_path, name="n"), preprocessing=SMALL, labels=("/m/01g317", "/m/0k4j")
        )
        assert [failure for report in check_model(tmp_path / "n") for failure in report.failures] == []

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (lambda x: [], "returns no tensor"),
            (lambda x: (x, None), "it returns NoneType at '1'"),
            (lambda x: {"a": {"b": x}, "a.b": x}, "two outputs of the network would have the same name"),
            (lambda x: {"x": x + 1, "y": x}, "output 'x' has the name of the model's input"),
            (lambda x: {"a\nb": x}, "has unprintable characters in its name"),
            (lambda x: {"\ud800": x}, "has unprintable characters in its name"),
            (lambda x: x.mean(), "output for 5 images have 0 rows"),
            (lambda x: {"z": x.to(torch.bfloat16)}, "output 'z' is torch.bfloat16, which clients do not support"),
            (
                lambda x: {"z": x.to(torch.complex64)},
                "the network's 'z' is complex64, but outputs of ONNX models are real",
            ),
        ],
    )
    def test_unsupported_raw_outputs(
        self, tmp_path: Path, forward: Callable[[torch.Tensor], Any], message: str
    ) -> None:
        """Outputs that cannot be served are rejected, and nothing is written."""

        class Custom(nn.Module):
            def forward(self, x: torch.Tensor) -> Any:
                return forward(x)

        with pytest.raises(UnsupportedNetworkError, match=message):
            export_model(Custom().eval(), ExportSettings(to=tmp_path, name="n", raw=True), preprocessing=SMALL)
        assert list(tmp_path.iterdir()) == []

    def test_memory_outside_of_pytorch(self, tmp_path: Path) -> None:
        """A network that does not run in float64 is rejected with the line and a remedy."""
        message = r"not in float64 at test_module.py:\d+: return x.mean.* as \.numpy\(\) .* Use PyTorch's operations"
        with pytest.raises(UnsupportedNetworkError, match=message):
            export_model(ThroughNumpy().eval(), ExportSettings(to=tmp_path, name="n"), preprocessing=SMALL)
        assert list(tmp_path.iterdir()) == []


def test_name_of_a_zoonnx_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is hidden by a package of zoonnx is reported as such, not as missing."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "mine.py").write_text("def build(): ...")
    (tmp_path / "export.py").write_text("def build(): ...")
    monkeypatch.chdir(tmp_path)
    for source in ("zoo.mine:build", "export:build"):
        with pytest.raises(SourceError, match="is also the name of a package of zoonnx, which hides yours: rename"):
            load_function(source, plain_preprocessing((3, 8, 8)))
