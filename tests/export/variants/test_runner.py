"""From a version to its variants: real weights, real images, real measuring."""

import copy
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import json_format
from onnx import numpy_helper
from torch import nn

from export.check.run import check_model
from export.errors import CalibrationDataError, RepositoryError, VariantError
from export.source.module import loaded_module, plain_preprocessing
from export.variants import fp16
from export.variants.report import lines, write_reports
from export.variants.runner import plan, require_all_kept
from export.variants.settings import KINDS, Bounds, VariantSettings
from export.variants.write import edge_folder
from protos import manifest
from serve.client.sync import Client
from tests.conftest import ROOT, Zoonnx
from tests.export.variants.conftest import ANY_SPEED, Everything, again, make
from zoo import LoadedNetwork, load_network
from zoo.data.registry import load_dataset
from zoo.runs.load import WeightsSource

HALVE = fp16.to_half


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class Classes(nn.Module):
    """A network that gives the class itself, beside its logits or alone."""

    def __init__(self, *, logits: bool) -> None:
        super().__init__()
        self.conv, self.logits = nn.Conv2d(3, 4, 3), logits

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x).mean((2, 3))
        return (y, y.argmax(1)) if self.logits else y.argmax(1)


def other_net(model: onnx.ModelProto, islands: list[str]) -> onnx.ModelProto:
    """A float16 file that went wrong as it was written: its first weight is ten times as large."""
    half = HALVE(model, islands)
    weight = next(each for each in half.graph.initializer if each.name.endswith("weight/half"))
    weight.CopyFrom(numpy_helper.from_array(10 * numpy_helper.to_array(weight), weight.name))
    return half


def test_a_float16_file_is_run_itself(trained: LoadedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are of float16 on a device, and of the file as it stands: the worse counts."""
    monkeypatch.setattr(fp16, "to_half", other_net)
    settings = VariantSettings(("fp16",), bounds=ANY_SPEED)
    found = make(replace(trained, weights=WeightsSource("random", 0), data=""), tmp_path / "models", settings)
    (verdict,) = (each.verdict for each in found.outcomes.values())
    assert re.match(r"the outputs' SQNR is -?[\d.]+ dB, needed are", verdict.reasons[0])


def given(network: nn.Module) -> LoadedNetwork:
    """A network of 3x8x8 with random weights."""
    loaded = loaded_module(network.eval(), plain_preprocessing((3, 8, 8)))
    return replace(loaded, weights=WeightsSource("random", 0))


def accuracy(path: Path) -> float:
    """The share of right answers on digits' test images, counted here."""
    test = load_dataset("digits").test
    (logits,) = open_session(path).run(["logits"], {"image": test.images.numpy()})
    return float((logits.argmax(-1) == test.targets.numpy()).mean())


class TestServable:
    """int8 and fp16: models of their own beside the original."""

    @pytest.mark.parametrize("kind", ["int8", "fp16"])
    def test_measured_is_what_is_there(self, everything: Everything, kind: str) -> None:
        """The accuracies reported are those of the files on disk; the variant loses at most a point."""
        found = everything.outcomes[kind].figures.accuracy
        written = everything.models / f"network-{kind}" / "1" / "model.onnx"
        expected = accuracy(everything.exported.folder / "model.onnx"), accuracy(written), 360, 360
        assert (found.fp32, found.variant, found.images, found.of) == pytest.approx(expected)
        assert found.drop_points <= 1

    @pytest.mark.parametrize("kind", ["int8", "fp16"])
    def test_checks_hold(self, everything: Everything, kind: str) -> None:
        """`zoonnx check` finds nothing wrong with a variant."""
        (report,) = check_model(everything.models / f"network-{kind}")
        assert [each.check for each in report.findings if each.result != "holds"] == []

    def test_manifest(self, everything: Everything) -> None:
        """The manifest says of what and how the variant was made, and how it measured."""
        folder = everything.models / "network-int8" / "1"
        said = json_format.Parse((folder / "manifest.json").read_text(), manifest.Manifest())
        original = hashlib.sha256((everything.exported.folder / "model.onnx").read_bytes()).hexdigest()
        assert (said.name, said.variant.kind, said.variant.of) == ("network-int8", "int8", "network")
        assert (said.variant.of_sha256, said.variant.untrained) == (original, False)
        assert (said.variant.dataset, said.variant.calibration_pictures) == ("digits", 128)
        assert all(f"{method} " in said.variant.how for method in ("minmax", "entropy", "percentile"))
        figures = {each.name: each.value for each in said.variant.figures}
        assert figures["accuracy"] == pytest.approx(accuracy(folder / "model.onnx"), abs=1e-6)
        least = min(said.variant.layers, key=lambda layer: layer.sqnr_db)
        assert said.variant.worst_layer == least.name

    def test_int8_computes_on_bytes(self, everything: Everything, tmp_path: Path) -> None:
        """onnxruntime runs every convolution of the file in int8, and no activation is left over."""
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        path = everything.models / "network-int8" / "1" / "model.onnx"
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        ops = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert (ops.count("QLinearConv"), ops.count("Conv"), ops.count("Relu")) == (4, 0, 0)
        constants = {weight.name: list(weight.dims) for weight in onnx.load(path).graph.initializer}
        assert (constants["image_mean"], constants["image_scale"]) == ([1, 1, 1, 8], [1, 1, 1, 8])

    def test_layers_mean_what_they_did(self, everything: Everything, trained: LoadedNetwork) -> None:
        """Every layer is still there, as PyTorch's hook sees it but for rounding: ReLU's output is never negative."""
        images = load_dataset("digits").test.images[:16]
        model = onnx.load(everything.models / "network-int8" / "1" / "model.onnx")
        layers = json_format.Parse(
            next(each.value for each in model.metadata_props if each.key == "zoonnx.layers"), manifest.LayerMap()
        ).layers
        before = everything.exported.manifest.layer_map.layers
        assert [(each.name, each.value) for each in layers] == [(each.name, each.value) for each in before]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("bn1", "act1"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        bn1, act1 = session.run(["bn1", "act1"], {"image": images.numpy()})
        with torch.no_grad():
            expected = trained.network.bn1(trained.network.conv1(trained.preprocessing.normalise(images))).numpy()
        assert act1.min() == 0
        assert bn1.min() < -0.1
        np.testing.assert_allclose(bn1, expected, atol=0.05 * np.abs(expected).max())

    def test_served(self, everything: Everything) -> None:
        """A real server gives the int8 model's layer by its name, and fp16's in float16."""
        command = [sys.executable, "-m", "zoonnx", "serve", str(everything.models), "--grpc-port", "0"]
        command += ["--http-port", "0", "--provider", "cpu"]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout
                url = re.fullmatch(r"ready: 3 models on grpc (\S+)\n", server.stdout.readline())
                assert url
                images = load_dataset("digits").test.images[:2].numpy()
                with Client(url[1]) as client:
                    answers = {
                        name: client.infer(name, {"image": images}, ["logits", "act1"])
                        for name in ("network", "network-int8", "network-fp16")
                    }
            finally:
                server.send_signal(signal.SIGTERM)
                server.communicate(timeout=20)
        expected = answers["network"]
        for name, atol in (("network-int8", 0.1), ("network-fp16", 0.005)):
            for output in ("logits", "act1"):
                largest = np.abs(expected[output]).max()
                np.testing.assert_allclose(answers[name][output], expected[output], atol=atol * largest)
        assert [answers["network-fp16"][output].dtype for output in ("logits", "act1")] == [np.float32, np.float16]


class TestEdge:
    """ort and fixed: files for devices, beside the repository."""

    def test_ort_loads(self, everything: Everything) -> None:
        """The .ort file gives what the original gives; the hashes beside it are its own."""
        folder = edge_folder(everything.models, "network", 1)
        images = load_dataset("digits").test.images[:5].numpy()
        got, expected = (
            open_session(path).run(["logits"], {"image": images})[0]
            for path in (folder / "model.ort", everything.exported.folder / "model.onnx")
        )
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        facts = json.loads((folder / "files.json").read_text())["files"]
        names = ["mobile_usability.txt", "model.fixed.onnx", "model.ort", "required_operators.config"]
        assert sorted(facts) == names
        for name, fact in facts.items():
            content = (folder / name).read_bytes()
            assert (fact["sha256"], fact["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))

    def test_operators_and_usability(self, everything: Everything) -> None:
        """The operators are those that the file runs; the checker spoke of NNAPI and Core ML."""
        folder = edge_folder(everything.models, "network", 1)
        operators = (folder / "required_operators.config").read_text()
        assert re.search(r"^ai\.onnx;\d+;.*Gemm", operators, re.MULTILINE)
        usability = (folder / "mobile_usability.txt").read_text()
        assert "Checking NNAPI" in usability
        assert "17/17 nodes can be handled by the CoreML MLProgram EP" in usability

    def test_fixed_is_fixed(self, everything: Everything) -> None:
        """Every value has a size; two images at once are refused."""
        path = edge_folder(everything.models, "network", 1) / "model.fixed.onnx"
        graph = onnx.load(path).graph
        infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}
        for name in (name for node in graph.node for name in node.output):
            assert all(dim.dim_value > 0 for dim in infos[name].type.tensor_type.shape.dim), name
        images = load_dataset("digits").test.images[:2].numpy()
        (expected,) = open_session(everything.exported.folder / "model.onnx").run(["logits"], {"image": images[:1]})
        (got,) = open_session(path).run(["logits"], {"image": images[:1]})
        np.testing.assert_array_equal(got, expected)
        with pytest.raises(Exception, match="Got: 2 Expected: 1"):
            open_session(path).run(None, {"image": images})


def test_no_path(everything: Everything) -> None:
    """No file, edge files and reports included, holds a path of this machine."""
    write_reports(everything.models, "network", 1, everything.planned, list(everything.outcomes.values()))
    places = [str(Path.home()), str(everything.models.parent), os.sep + "tmp" + os.sep, str(ROOT)]
    files = [path for path in everything.models.parent.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        for place in places:
            assert place.encode() not in path.read_bytes(), (path, place)


def test_terminal(everything: Everything) -> None:
    """A variant is two lines that fit a narrow terminal, with its verdict and its figures, and where it lies."""
    shown = {kind: lines(each) for kind, each in everything.outcomes.items()}
    assert max(len(line) for each in shown.values() for line in each[:2]) <= 80
    assert all(Path(line.strip()).exists() for each in shown.values() for line in each[2:])
    assert shown["fixed"][2].endswith("edge/network/1/model.fixed.onnx")
    figures = everything.outcomes["int8"].figures
    assert figures is not None
    assert shown["int8"][0].startswith(f"int8  kept: {figures.variant_bytes / 1e6:.2f} of ")
    assert f"outputs at {figures.output_db:.1f} dB" in shown["int8"][1]


def test_report(everything: Everything) -> None:
    """The page has a row and a section for each variant, and the JSON the same figures."""
    path = write_reports(everything.models, "network", 1, everything.planned, list(everything.outcomes.values()))
    text = path.read_text()
    facts = {each["kind"]: each for each in json.loads(path.with_suffix(".json").read_text())["variants"]}
    assert sorted(facts) == ["fixed", "fp16", "int8", "ort"]
    for kind in facts:
        assert f"## {kind}: kept" in text
    found = facts["int8"]["figures"]
    assert f"{found['accuracy']['fp32']:.2%} / {found['accuracy']['variant']:.2%}" in text
    assert found["latency"]["speedup_low"] <= found["latency"]["speedup"] <= found["latency"]["speedup_high"]
    assert found["variant_bytes"] < found["fp32_bytes"] / 3
    assert found["variant_peak_mb"] is None or found["variant_peak_mb"] > 1


AGAIN = """
import sys
from pathlib import Path
from export.variants.settings import VariantSettings
from tests.export.variants.conftest import ANY_SPEED, make
from zoo import load_network
make(load_network(Path(sys.argv[1])), Path(sys.argv[2]), VariantSettings(("int8", "fp16", "fixed"), bounds=ANY_SPEED))
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(everything: Everything, run: Path, tmp_path: Path) -> None:
    """Model, manifest, config and test data of both variants, and the fixed twin, with another hash seed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", AGAIN, str(run), str(tmp_path / "models")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=150)
    for name in ("models/net-int8", "models/net-fp16"):
        paths = [path for path in (everything.models.parent / name).rglob("*") if path.is_file()]
        assert len(paths) == 7
        for path in paths:
            again = tmp_path / path.relative_to(everything.models.parent)
            assert again.read_bytes() == path.read_bytes(), path
    twins = [
        edge_folder(models, "network", 1) / "model.fixed.onnx" for models in (everything.models, tmp_path / "models")
    ]
    assert twins[0].read_bytes() == twins[1].read_bytes()


class TestRefusals:
    """What is not good enough is reported and not written."""

    def test_too_slow(self, everything: Everything, tmp_path: Path) -> None:
        """A speedup that nothing reaches refuses the variant, with the figures; the model itself stands."""
        settings = VariantSettings(("int8", "fixed"), bounds=Bounds(min_speedup=1000))
        outcomes = again(everything, tmp_path, settings)
        assert [each.name for each in (tmp_path / "models").iterdir()] == ["network"]
        outcome = outcomes["int8"]
        assert not outcome.verdict.kept
        assert re.match(
            r"its speedup is [\d.]+ \(95 % between [\d.]+ and [\d.]+\), needed is 1000", outcome.verdict.reasons[0]
        )
        assert outcome.verdict.reasons[1].startswith("the worst layer is '")
        assert edge_folder(tmp_path / "models", "network", 1).is_dir()
        with pytest.raises(VariantError, match=r"the model was written, .* refused: int8 \(its speedup"):
            require_all_kept(list(outcomes.values()))

    def test_collapse(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """One channel that is a thousand times larger than the others leaves int8 nothing of them: refused.

        The network computes the same as before, since the next convolution takes the channel back by as much.
        """
        network = copy.deepcopy(trained.network)
        with torch.no_grad():
            for tensor in (network.bn1.weight, network.bn1.bias):
                tensor[0] *= 3000
            network.conv2.weight[:, 0] /= 3000
        settings = VariantSettings(("int8",), bounds=ANY_SPEED)
        found = make(replace(trained, network=network), tmp_path / "models", settings)
        outcome = found.outcomes["int8"]
        assert outcome.figures.accuracy.fp32 > 0.9
        assert outcome.figures.accuracy.drop_points > 10
        assert re.match(r"accuracy drops by [\d.]+ points, allowed are 1", outcome.verdict.reasons[0])
        assert not (tmp_path / "models" / "network-int8").exists()

    def test_no_calibration_data(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """Trained weights without images are refused before anything is written; with a named set they are not."""
        loaded = replace(trained, data="")
        with pytest.raises(CalibrationDataError, match=r"trained weights, and no data set .* --calibration-data"):
            plan(loaded, tmp_path / "models", "network", VariantSettings(("fp16", "int8")))
        assert list(tmp_path.iterdir()) == []
        settings = VariantSettings(("int8",), calibration_data="digits")
        assert plan(loaded, tmp_path / "models", "network", settings).evidence.dataset == "digits"

    def test_wrong_calibration_data(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """Images of another size are refused."""
        with pytest.raises(CalibrationDataError, match=r"\(1, 1, 128\), but .* takes \(1, 8, 8\)"):
            plan(trained, tmp_path, "network", VariantSettings(("int8",), calibration_data="signal"))

    def test_something_in_the_way(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """A model of the variant's name that is not ours stops all before the export."""
        (tmp_path / "models" / "network-int8").mkdir(parents=True)
        with pytest.raises(RepositoryError, match="network-int8 stands there without network"):
            plan(trained, tmp_path / "models", "network", VariantSettings(("int8",)))

    def test_untrained_is_said(self, tmp_path: Path) -> None:
        """Random weights have no accuracy: SQNR judges them, and manifest and report say that they are untrained."""
        settings = VariantSettings(("int8",), bounds=Bounds(min_speedup=0, min_sqnr_db=15))
        found = make(load_network("convnet4"), tmp_path / "models", settings)
        outcome = found.outcomes["int8"]
        assert outcome.figures.accuracy is None
        assert outcome.verdict.notes[0].startswith("untrained")
        said = (tmp_path / "models" / "network-int8" / "1" / "manifest.json").read_text()
        assert json.loads(said)["variant"]["untrained"] is True
        page = write_reports(found.models, "network", 1, found.planned, [outcome]).read_text()
        assert "**untrained**" in page

    def test_target_that_is_not_here(self, everything: Everything, tmp_path: Path) -> None:
        """Speed on a device that this machine lacks is not measured, and the verdict says so."""
        if torch.cuda.is_available():
            pytest.skip("a CUDA device is here")
        settings = VariantSettings(("fp16",), target="cuda", bounds=Bounds(min_speedup=1000))
        (outcome,) = again(everything, tmp_path, settings).values()
        assert outcome.verdict.kept
        assert outcome.verdict.notes == ("speed not measured: no cuda device here",)


@pytest.mark.slow
def test_command(run: Path, tmp_path: Path, zoonnx: Zoonnx) -> None:
    """A refusal ends with status 1 after everything else is written; a word that is no variant with 2."""
    options = ["export", run, "--to", tmp_path / "models", "--variants"]
    refused = zoonnx(*options, "fp16,fixed", "--min-speedup", 1000)
    assert refused.returncode == 1, refused.stderr
    assert "REFUSED" in refused.stdout
    assert "the model was written, but these variants were refused: fp16" in refused.stderr
    assert (tmp_path / "models" / "digits" / "1" / "model.onnx").is_file()
    assert (tmp_path / "edge" / "digits" / "1" / "model.fixed.onnx").is_file()
    assert (tmp_path / "reports" / "digits" / "1" / "variants.md").is_file()
    wrong = zoonnx(*options, "int4")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "zoonnx export: there is no variant 'int4': choose of fp16, int8, ort, fixed, with commas between them.\n",
    )


def test_data_of_the_test_set_is_pytorchs(everything: Everything) -> None:
    """A variant's test data are the original's; the tolerance is twice the difference measured."""
    folders = [everything.models / name / "1" / "test_data_set_0" for name in ("network", "network-int8")]
    for path in sorted(folders[0].iterdir()):
        assert (folders[1] / path.name).read_bytes() == path.read_bytes()
    arrays = {path.stem: onnx.load_tensor(path) for path in folders[1].iterdir()}
    (logits,) = open_session(folders[1].parent / "model.onnx").run(
        ["logits"], {"image": numpy_helper.to_array(arrays["input_0"])}
    )
    said = json_format.Parse((folders[1].parent / "manifest.json").read_text(), manifest.Manifest())
    (promised,) = (each for each in said.parity.checks if each.output == "logits")
    error = float(np.abs(logits - numpy_helper.to_array(arrays["output_0"])).max())
    assert promised.max_abs_error == pytest.approx(error, rel=1e-2)
    assert promised.tolerance == pytest.approx(2 * promised.max_abs_error)


@pytest.mark.slow
class TestOtherInterfaces:
    """Models that take floats, and models with several labels an image."""

    def made(self, loaded: LoadedNetwork, to: Path, *, raw: bool) -> Everything:
        found = make(loaded, to / "models", VariantSettings(KINDS, bounds=ANY_SPEED), raw=raw)
        assert [each.verdict.reasons for each in found.outcomes.values()] == [(), (), (), ()]
        for kind in ("int8", "fp16"):
            (report,) = check_model(found.models / f"network-{kind}")
            assert [each.check for each in report.findings if each.result == "fails"] == []
        return found

    def test_raw(self, tmp_path: Path) -> None:
        """A raw model's variants take and give what it takes and gives."""
        found = self.made(load_network("convnet4"), tmp_path, raw=True)
        x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
        paths = [found.models / name / "1" / "model.onnx" for name in ("network", "network-int8", "network-fp16")]
        opened = [open_session(path) for path in paths]
        name = opened[0].get_inputs()[0].name
        expected, *others = (session.run(None, {name: x})[0] for session in opened)
        for other, atol in zip(others, (0.2, 0.005), strict=True):
            np.testing.assert_allclose(other, expected, atol=atol * np.abs(expected).max())

    def test_integer_outputs(self, tmp_path: Path) -> None:
        """Integers stay integers beside a float output; without one int8 and fp16 are refused, the rest is made."""
        found = self.made(given(Classes(logits=True)), tmp_path / "both", raw=True)
        x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
        for name in ("network-int8", "network-fp16"):
            session = open_session(found.models / name / "1" / "model.onnx")
            assert [each.type for each in session.get_outputs()] == ["tensor(float)", "tensor(int64)"]
            logits, classes = session.run(None, {session.get_inputs()[0].name: x})
            np.testing.assert_array_equal(classes, logits.argmax(1))
        alone = make(
            given(Classes(logits=False)), tmp_path / "alone", VariantSettings(KINDS, bounds=ANY_SPEED), raw=True
        )
        refused = {kind: " ".join(each.verdict.reasons) for kind, each in alone.outcomes.items()}
        for kind in ("int8", "fp16"):
            assert "no output is float32 (output)" in refused.pop(kind)
        assert set(refused.values()) == {""}
        page = write_reports(alone.models, "network", 1, alone.planned, list(alone.outcomes.values()))
        assert "## fp16: REFUSED" in page.read_text()

    def test_several_labels(self, tmp_path: Path) -> None:
        """Probabilities are sigmoids in every variant; agreement counts each yes and each no."""
        loaded = replace(load_network("convnet4"), task="multi-label")
        found = self.made(loaded, tmp_path, raw=False)
        image = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
        logits = []
        for name in ("network", "network-int8", "network-fp16"):
            session = open_session(found.models / name / "1" / "model.onnx")
            given, probabilities = session.run(["logits", "probabilities"], {"image": image})
            np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-given)), rtol=1e-4)
            logits.append(given)
        assert found.outcomes["int8"].figures.agreement > 0.9
        assert np.mean((logits[0] > 0) == (logits[1] > 0)) > 0.9
