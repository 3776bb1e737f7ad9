"""Variants of a written version: real weights, real images, real measurements."""

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

from export.artifact.beside import edge_folder
from export.check.run import check_model
from export.cli.columns import format_rows
from export.cli.variants import rows
from export.errors import CalibrationDataError, RepositoryError, VariantError
from export.source.module import loaded_module, plain_preprocessing
from export.variants import fp16
from export.variants.report import write_reports
from export.variants.runner import plan, require_all_accepted
from export.variants.settings import KINDS, Bounds, VariantSettings
from protos import manifest
from serve.client.sync import Client
from tests.conftest import ROOT, Zoonnx
from tests.export.variants.conftest import ANY_SPEED, ExportWithVariants, build_again, export_with_variants
from zoo import LoadedNetwork, load_network
from zoo.data.registry import load_dataset
from zoo.runs.load import WeightsSource

TO_HALF = fp16.to_half


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class Classes(nn.Module):
    """A network that returns the predicted class, alone or with its logits."""

    def __init__(self, *, logits: bool) -> None:
        super().__init__()
        self.conv, self.logits = nn.Conv2d(3, 4, 3), logits

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x).mean((2, 3))
        return (y, y.argmax(1)) if self.logits else y.argmax(1)


def to_half_with_wrong_weight(model: onnx.ModelProto, float32_nodes: list[str]) -> onnx.ModelProto:
    """Convert to float16 wrongly: the first weight is ten times too large."""
    half = TO_HALF(model, float32_nodes)
    weight = next(tensor for tensor in half.graph.initializer if tensor.name.endswith("weight/half"))
    weight.CopyFrom(numpy_helper.from_array(10 * numpy_helper.to_array(weight), weight.name))
    return half


def test_float16_model_itself_is_measured(
    trained: LoadedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation of a float16 device and the float16 model are both measured, and the worse result counts."""
    monkeypatch.setattr(fp16, "to_half", to_half_with_wrong_weight)
    settings = VariantSettings(("fp16",), bounds=ANY_SPEED)
    untrained = replace(trained, weights=WeightsSource("random", 0), data="")
    variants = export_with_variants(untrained, tmp_path / "models", settings)
    (verdict,) = (outcome.verdict for outcome in variants.outcomes.values())
    assert re.match(r"SQNR of the outputs is -?[\d.]+ dB \(minimum", verdict.reasons[0])


def untrained_network(network: nn.Module) -> LoadedNetwork:
    """Return a network for 3x8x8 images with random weights."""
    loaded = loaded_module(network.eval(), plain_preprocessing((3, 8, 8)))
    return replace(loaded, weights=WeightsSource("random", 0))


def accuracy(path: Path) -> float:
    """Compute the accuracy on the test images of digits independently."""
    test = load_dataset("digits").test
    (logits,) = open_session(path).run(["logits"], {"image": test.images.numpy()})
    return float((logits.argmax(-1) == test.targets.numpy()).mean())


class TestServable:
    """int8 and fp16 are separate models beside the original."""

    @pytest.mark.parametrize("kind", ["int8", "fp16"])
    def test_accuracy(self, all_variants: ExportWithVariants, kind: str) -> None:
        """The measured accuracies are those of the files on disk; the variant loses at most one point."""
        measured = all_variants.outcomes[kind].measured.accuracy
        written = all_variants.models / f"network-{kind}" / "1" / "model.onnx"
        expected = accuracy(all_variants.exported.folder / "model.onnx"), accuracy(written), 360, 360
        assert (measured.fp32, measured.variant, measured.images, measured.split_size) == pytest.approx(expected)
        assert measured.drop_points <= 1

    @pytest.mark.parametrize("kind", ["int8", "fp16"])
    def test_checks_pass(self, all_variants: ExportWithVariants, kind: str) -> None:
        """A variant passes all checks of `zoonnx check`."""
        (report,) = check_model(all_variants.models / f"network-{kind}")
        assert [result.check for result in report.results if result.status != "verified"] == []

    def test_manifest(self, all_variants: ExportWithVariants) -> None:
        """The manifest records the original, how the variant was built, and its measurements."""
        folder = all_variants.models / "network-int8" / "1"
        recorded = json_format.Parse((folder / "manifest.json").read_text(), manifest.Manifest())
        variant = recorded.variant
        original = hashlib.sha256((all_variants.exported.folder / "model.onnx").read_bytes()).hexdigest()
        assert (recorded.name, variant.kind, variant.of) == ("network-int8", "int8", "network")
        assert (variant.of_sha256, variant.untrained) == (original, False)
        assert (variant.dataset, variant.calibration_pictures) == ("digits", 128)
        assert all(f"{method} " in variant.how for method in ("minmax", "entropy", "percentile"))
        metrics = {metric.name: metric.value for metric in variant.figures}
        assert metrics["accuracy"] == pytest.approx(accuracy(folder / "model.onnx"), abs=1e-6)
        worst = min(variant.layers, key=lambda layer: layer.sqnr_db)
        assert variant.worst_layer == worst.name

    def test_int8_convolutions(self, all_variants: ExportWithVariants, tmp_path: Path) -> None:
        """onnxruntime runs every convolution in int8, and fuses every activation."""
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        path = all_variants.models / "network-int8" / "1" / "model.onnx"
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        ops = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert (ops.count("QLinearConv"), ops.count("Conv"), ops.count("Relu")) == (4, 0, 0)
        constants = {weight.name: list(weight.dims) for weight in onnx.load(path).graph.initializer}
        assert (constants["image_mean"], constants["image_scale"]) == ([1, 1, 1, 8], [1, 1, 1, 8])

    def test_layers_keep_their_meaning(self, all_variants: ExportWithVariants, trained: LoadedNetwork) -> None:
        """Every layer output equals that of PyTorch's hook within rounding: the output of ReLU is never negative."""
        images = load_dataset("digits").test.images[:16]
        model = onnx.load(all_variants.models / "network-int8" / "1" / "model.onnx")
        layers = json_format.Parse(
            next(entry.value for entry in model.metadata_props if entry.key == "zoonnx.layers"), manifest.LayerMap()
        ).layers
        original = all_variants.exported.manifest.layer_map.layers
        assert [(layer.name, layer.value) for layer in layers] == [(layer.name, layer.value) for layer in original]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("bn1", "act1"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        bn1, act1 = session.run(["bn1", "act1"], {"image": images.numpy()})
        with torch.no_grad():
            expected = trained.network.bn1(trained.network.conv1(trained.preprocessing.normalise(images))).numpy()
        assert act1.min() == 0
        assert bn1.min() < -0.1
        np.testing.assert_allclose(bn1, expected, atol=0.05 * np.abs(expected).max())

    def test_served(self, all_variants: ExportWithVariants) -> None:
        """A real server returns a layer of the int8 model by its name, and one of the fp16 model in float16."""
        command = [sys.executable, "-m", "zoonnx", "serve", str(all_variants.models), "--grpc-port", "0"]
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
                    responses = {
                        name: client.infer(name, {"image": images}, ["logits", "act1"])
                        for name in ("network", "network-int8", "network-fp16")
                    }
            finally:
                server.send_signal(signal.SIGTERM)
                server.communicate(timeout=20)
        expected = responses["network"]
        for name, atol in (("network-int8", 0.1), ("network-fp16", 0.005)):
            for output in ("logits", "act1"):
                largest = np.abs(expected[output]).max()
                np.testing.assert_allclose(responses[name][output], expected[output], atol=atol * largest)
        assert [responses["network-fp16"][output].dtype for output in ("logits", "act1")] == [np.float32, np.float16]


class TestEdge:
    """ort and fixed are files for devices, beside the repository."""

    def test_ort_loads(self, all_variants: ExportWithVariants) -> None:
        """The outputs of the .ort file equal those of the original; files.json has the hashes of all files."""
        folder = edge_folder(all_variants.models, "network", 1)
        images = load_dataset("digits").test.images[:5].numpy()
        actual, expected = (
            open_session(path).run(["logits"], {"image": images})[0]
            for path in (folder / "model.ort", all_variants.exported.folder / "model.onnx")
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        entries = json.loads((folder / "files.json").read_text())["files"]
        names = ["mobile_usability.txt", "model.fixed.onnx", "model.ort", "required_operators.config"]
        assert sorted(entries) == names
        for name, entry in entries.items():
            content = (folder / name).read_bytes()
            assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))

    def test_operators_and_usability(self, all_variants: ExportWithVariants) -> None:
        """The list of operators is complete, and the checker's report covers NNAPI and Core ML."""
        folder = edge_folder(all_variants.models, "network", 1)
        operators = (folder / "required_operators.config").read_text()
        assert re.search(r"^ai\.onnx;\d+;.*Gemm", operators, re.MULTILINE)
        usability = (folder / "mobile_usability.txt").read_text()
        assert "Checking NNAPI" in usability
        assert "17/17 nodes can be handled by the CoreML MLProgram EP" in usability

    def test_static_shapes(self, all_variants: ExportWithVariants) -> None:
        """Every value has a static shape, and a batch of two images is rejected."""
        path = edge_folder(all_variants.models, "network", 1) / "model.fixed.onnx"
        graph = onnx.load(path).graph
        infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}
        for name in (name for node in graph.node for name in node.output):
            assert all(dim.dim_value > 0 for dim in infos[name].type.tensor_type.shape.dim), name
        images = load_dataset("digits").test.images[:2].numpy()
        (expected,) = open_session(all_variants.exported.folder / "model.onnx").run(["logits"], {"image": images[:1]})
        (logits,) = open_session(path).run(["logits"], {"image": images[:1]})
        np.testing.assert_array_equal(logits, expected)
        with pytest.raises(Exception, match="Got: 2 Expected: 1"):
            open_session(path).run(None, {"image": images})


def test_no_path(all_variants: ExportWithVariants) -> None:
    """No file contains a path of this machine, including the files for devices and the reports."""
    write_reports(all_variants.models, "network", 1, all_variants.plan, list(all_variants.outcomes.values()))
    forbidden = [str(Path.home()), str(all_variants.models.parent), os.sep + "tmp" + os.sep, str(ROOT)]
    files = [path for path in all_variants.models.parent.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        for folder in forbidden:
            assert folder.encode() not in path.read_bytes(), (path, folder)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_terminal(all_variants: ExportWithVariants, width: int) -> None:
    """The verdict and the measurements of each variant fit the terminal; a path is complete on its own line."""
    by_kind = {kind: dict(rows(outcome)) for kind, outcome in all_variants.outcomes.items()}
    for kind, facts in by_kind.items():
        path = facts.pop("  path")
        assert path.exists()
        texts = format_rows([*facts.items(), ("  path", path)], width)
        assert texts[-1].endswith(f" {path}")
        assert max(len(line) for text in texts[:-1] for line in text.split("\n")) <= width
        assert texts[0].split() == [kind, "accepted"]
    assert dict(rows(all_variants.outcomes["fixed"]))["  path"].match("edge/models/network/1/model.fixed.onnx")
    measured = all_variants.outcomes["int8"].measured
    assert measured is not None
    assert by_kind["int8"]["  size"].startswith(f"{measured.variant_bytes / 1e6:.2f} MB (fp32: ")
    assert f"outputs {measured.output_db:.1f} dB" in by_kind["int8"]["  SQNR"]


def test_report(all_variants: ExportWithVariants) -> None:
    """variants.md has a row and a section for each variant, and variants.json has the same measurements."""
    path = write_reports(all_variants.models, "network", 1, all_variants.plan, list(all_variants.outcomes.values()))
    text = path.read_text()
    facts = {variant["kind"]: variant for variant in json.loads(path.with_suffix(".json").read_text())["variants"]}
    assert sorted(facts) == ["fixed", "fp16", "int8", "ort"]
    for kind in facts:
        assert f"## {kind}: accepted" in text
    measured = facts["int8"]["figures"]
    assert list(measured["accuracy"]) == ["fp32", "variant", "images", "of"]
    assert f"{measured['accuracy']['fp32']:.2%} / {measured['accuracy']['variant']:.2%}" in text
    assert measured["latency"]["speedup_low"] <= measured["latency"]["speedup"] <= measured["latency"]["speedup_high"]
    assert measured["variant_bytes"] < measured["fp32_bytes"] / 3
    assert measured["variant_peak_mb"] is None or measured["variant_peak_mb"] > 1


AGAIN = """
import sys
from pathlib import Path
from export.variants.settings import VariantSettings
from tests.export.variants.conftest import ANY_SPEED, export_with_variants
from zoo import load_network
settings = VariantSettings(("int8", "fp16", "fixed"), bounds=ANY_SPEED)
export_with_variants(load_network(Path(sys.argv[1])), Path(sys.argv[2]), settings)
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(all_variants: ExportWithVariants, run: Path, tmp_path: Path) -> None:
    """Model, manifest, config and test data of int8 and fp16, and the fixed model, are equal with another hash seed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", AGAIN, str(run), str(tmp_path / "models")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=150)
    for name in ("models/network-int8", "models/network-fp16"):
        paths = [path for path in (all_variants.models.parent / name).rglob("*") if path.is_file()]
        assert len(paths) == 7
        for path in paths:
            other = tmp_path / path.relative_to(all_variants.models.parent)
            assert other.read_bytes() == path.read_bytes(), path
    fixed = [
        edge_folder(models, "network", 1) / "model.fixed.onnx" for models in (all_variants.models, tmp_path / "models")
    ]
    assert fixed[0].read_bytes() == fixed[1].read_bytes()


class TestRejection:
    """A variant that misses a bound is reported, but not written."""

    def test_too_slow(self, all_variants: ExportWithVariants, tmp_path: Path) -> None:
        """A variant that misses the speedup is rejected with its measurements; the model itself stays."""
        settings = VariantSettings(("int8", "fixed"), bounds=Bounds(min_speedup=1000))
        outcomes = build_again(all_variants, tmp_path, settings)
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["network"]
        outcome = outcomes["int8"]
        assert not outcome.verdict.accepted
        assert re.match(
            r"speedup is [\d.]+ \(95 % interval [\d.]+ to [\d.]+\), minimum 1000", outcome.verdict.reasons[0]
        )
        assert outcome.verdict.reasons[1].startswith("the worst layer is '")
        assert edge_folder(tmp_path / "models", "network", 1).is_dir()
        with pytest.raises(VariantError, match=r"the model was written, .* rejected: int8 \(speedup"):
            require_all_accepted(list(outcomes.values()))

    def test_collapse(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """If one channel is a thousand times larger than the others, int8 loses the others and is rejected.

        The network computes the same as before, because the next convolution scales the channel back.
        """
        network = copy.deepcopy(trained.network)
        with torch.no_grad():
            for tensor in (network.bn1.weight, network.bn1.bias):
                tensor[0] *= 3000
            network.conv2.weight[:, 0] /= 3000
        settings = VariantSettings(("int8",), bounds=ANY_SPEED)
        variants = export_with_variants(replace(trained, network=network), tmp_path / "models", settings)
        outcome = variants.outcomes["int8"]
        assert outcome.measured.accuracy.fp32 > 0.9
        assert outcome.measured.accuracy.drop_points > 10
        assert re.match(r"accuracy drops by [\d.]+ points \(limit 1\)", outcome.verdict.reasons[0])
        assert not (tmp_path / "models" / "network-int8").exists()

    def test_no_calibration_data(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """Trained weights without a dataset are rejected before anything is written; a named dataset is accepted."""
        loaded = replace(trained, data="")
        with pytest.raises(CalibrationDataError, match=r"trained weights, but no dataset .* --calibration-data"):
            plan(loaded, tmp_path / "models", "network", VariantSettings(("fp16", "int8")))
        assert list(tmp_path.iterdir()) == []
        settings = VariantSettings(("int8",), calibration_data="digits")
        assert plan(loaded, tmp_path / "models", "network", settings).eval_data.dataset == "digits"

    def test_wrong_calibration_data(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """Images of another size are rejected."""
        with pytest.raises(CalibrationDataError, match=r"\(1, 1, 128\), but .* accepts \(1, 8, 8\)"):
            plan(trained, tmp_path, "network", VariantSettings(("int8",), calibration_data="signal"))

    def test_occupied_folder(self, trained: LoadedNetwork, tmp_path: Path) -> None:
        """An unrelated model with the variant's name is rejected before the export."""
        (tmp_path / "models" / "network-int8").mkdir(parents=True)
        with pytest.raises(RepositoryError, match="network-int8 exists, but network does not"):
            plan(trained, tmp_path / "models", "network", VariantSettings(("int8",)))

    def test_untrained(self, tmp_path: Path) -> None:
        """Random weights are evaluated by SQNR, and manifest and report mark the network as untrained."""
        settings = VariantSettings(("int8",), bounds=Bounds(min_speedup=0, min_sqnr_db=15))
        variants = export_with_variants(load_network("convnet4"), tmp_path / "models", settings)
        outcome = variants.outcomes["int8"]
        assert outcome.measured.accuracy is None
        assert outcome.verdict.notes[0].startswith("untrained")
        manifest_text = (tmp_path / "models" / "network-int8" / "1" / "manifest.json").read_text()
        assert json.loads(manifest_text)["variant"]["untrained"] is True
        report = write_reports(variants.models, "network", 1, variants.plan, [outcome]).read_text()
        assert "**untrained**" in report

    def test_missing_target(self, all_variants: ExportWithVariants, tmp_path: Path) -> None:
        """Speed on a missing device is not measured, and the verdict notes this."""
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        settings = VariantSettings(("fp16",), target="cuda", bounds=Bounds(min_speedup=1000))
        (outcome,) = build_again(all_variants, tmp_path, settings).values()
        assert outcome.verdict.accepted
        assert outcome.verdict.notes == ("speed not measured: no cuda device here",)


@pytest.mark.slow
def test_command(run: Path, tmp_path: Path, zoonnx: Zoonnx) -> None:
    """A rejected variant ends with exit status 1 after everything else is written; an unknown variant with 2."""
    options = ["export", run, "--to", tmp_path / "models", "--variants"]
    rejected = zoonnx(*options, "fp16,fixed", "--min-speedup", 1000)
    assert rejected.returncode == 1, rejected.stderr
    assert "REJECTED" in rejected.stdout
    assert "the model was written, but these variants were rejected: fp16" in rejected.stderr
    assert (tmp_path / "models" / "digits" / "1" / "model.onnx").is_file()
    assert (tmp_path / "edge" / "models" / "digits" / "1" / "model.fixed.onnx").is_file()
    assert (tmp_path / "reports" / "models" / "digits" / "1" / "variants.md").is_file()
    wrong = zoonnx(*options, "int4")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "zoonnx export: there is no variant 'int4': choose from fp16, int8, ort, fixed, separated by commas.\n",
    )


def test_test_data_is_the_originals(all_variants: ExportWithVariants) -> None:
    """The test data of a variant are those of the original; the tolerance is twice the measured error."""
    folders = [all_variants.models / name / "1" / "test_data_set_0" for name in ("network", "network-int8")]
    for path in sorted(folders[0].iterdir()):
        assert (folders[1] / path.name).read_bytes() == path.read_bytes()
    arrays = {path.stem: onnx.load_tensor(path) for path in folders[1].iterdir()}
    (logits,) = open_session(folders[1].parent / "model.onnx").run(
        ["logits"], {"image": numpy_helper.to_array(arrays["input_0"])}
    )
    recorded = json_format.Parse((folders[1].parent / "manifest.json").read_text(), manifest.Manifest())
    (check,) = (check for check in recorded.parity.checks if check.output == "logits")
    error = float(np.abs(logits - numpy_helper.to_array(arrays["output_0"])).max())
    assert check.max_abs_error == pytest.approx(error, rel=1e-2)
    assert check.tolerance == pytest.approx(2 * check.max_abs_error)


@pytest.mark.slow
class TestOtherInterfaces:
    """Raw models with float inputs, and multi-label models."""

    def export_all(self, loaded: LoadedNetwork, to: Path, *, raw: bool) -> ExportWithVariants:
        settings = VariantSettings(KINDS, bounds=ANY_SPEED)
        variants = export_with_variants(loaded, to / "models", settings, raw=raw)
        assert [outcome.verdict.reasons for outcome in variants.outcomes.values()] == [(), (), (), ()]
        for kind in ("int8", "fp16"):
            (report,) = check_model(variants.models / f"network-{kind}")
            assert [result.check for result in report.results if result.status == "failed"] == []
        return variants

    def test_raw(self, tmp_path: Path) -> None:
        """The variants of a raw model have its inputs and outputs."""
        variants = self.export_all(load_network("convnet4"), tmp_path, raw=True)
        x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
        paths = [variants.models / name / "1" / "model.onnx" for name in ("network", "network-int8", "network-fp16")]
        opened = [open_session(path) for path in paths]
        name = opened[0].get_inputs()[0].name
        expected, *others = (session.run(None, {name: x})[0] for session in opened)
        for other, atol in zip(others, (0.2, 0.005), strict=True):
            np.testing.assert_allclose(other, expected, atol=atol * np.abs(expected).max())

    def test_integer_outputs(self, tmp_path: Path) -> None:
        """Integer outputs stay integers; without a float output int8 and fp16 are rejected, and the others built."""
        variants = self.export_all(untrained_network(Classes(logits=True)), tmp_path / "both", raw=True)
        x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
        for name in ("network-int8", "network-fp16"):
            session = open_session(variants.models / name / "1" / "model.onnx")
            assert [output.type for output in session.get_outputs()] == ["tensor(float)", "tensor(int64)"]
            logits, classes = session.run(None, {session.get_inputs()[0].name: x})
            np.testing.assert_array_equal(classes, logits.argmax(1))
        alone = export_with_variants(
            untrained_network(Classes(logits=False)),
            tmp_path / "alone",
            VariantSettings(KINDS, bounds=ANY_SPEED),
            raw=True,
        )
        reasons = {kind: " ".join(outcome.verdict.reasons) for kind, outcome in alone.outcomes.items()}
        for kind in ("int8", "fp16"):
            assert "no output is float32 (output)" in reasons.pop(kind)
        assert set(reasons.values()) == {""}
        report = write_reports(alone.models, "network", 1, alone.plan, list(alone.outcomes.values()))
        assert "## fp16: REJECTED" in report.read_text()

    def test_several_labels(self, tmp_path: Path) -> None:
        """Probabilities are sigmoids in every variant; agreement counts each binary prediction."""
        loaded = replace(load_network("convnet4"), task="multi-label")
        variants = self.export_all(loaded, tmp_path, raw=False)
        image = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
        logits = []
        for name in ("network", "network-int8", "network-fp16"):
            session = open_session(variants.models / name / "1" / "model.onnx")
            outputs = session.run(["logits", "probabilities"], {"image": image})
            np.testing.assert_allclose(outputs[1], 1 / (1 + np.exp(-outputs[0])), rtol=1e-4)
            logits.append(outputs[0])
        assert variants.outcomes["int8"].measured.agreement > 0.9
        assert np.mean((logits[0] > 0) == (logits[1] > 0)) > 0.9
