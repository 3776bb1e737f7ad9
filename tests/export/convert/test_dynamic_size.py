"""Height and width are free in the file where the network takes any, and refused, with the layer, where it does not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from timm.layers import Conv2dSame
from torch import nn

import zoonnx as dispatcher
from export import Exported, ExportSettings, export_model
from export.check.run import check_model
from export.errors import ConversionError, ParityError, UnsupportedNetworkError
from export.variants.runner import make_variants, plan
from export.variants.settings import Bounds, VariantSettings
from export.verify.dim_expr import evaluate
from protos import inference
from zoo import LoadedNetwork


@pytest.fixture(scope="module")
def free(convnet4: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export with a free size."""
    to: Path = tmp_path_factory.mktemp("free") / "models"
    return export_model(convnet4, ExportSettings(to=to, name="free", dynamic_size=True))


def raw(network: nn.Module, convnet4: LoadedNetwork, to: Path) -> Exported:
    loaded = replace(convnet4, network=network.eval(), labels=())
    return export_model(loaded, ExportSettings(to=to, name="raw", raw=True, dynamic_size=True))


def session(exported: Exported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])


def test_a_variant_is_checked(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """A variant names no sizes at which it was checked: what is free in it is then believed."""
    settings = VariantSettings(("fp16",), bounds=Bounds(min_speedup=0))
    planned = plan(convnet4, tmp_path, "network", settings)
    exported = export_model(convnet4, ExportSettings(to=tmp_path, name="network", dynamic_size=True))
    assert [each.verdict.kept for each in make_variants(planned, exported.folder)] == [True]
    reports = [report for name in ("network", "network-fp16") for report in check_model(tmp_path / name)]
    assert [fault for report in reports for fault in report.faults] == []


class TestFile:
    """An export of a network that ends in a mean over all places."""

    @pytest.mark.parametrize("size", [(8, 8), (33, 20), (96, 31)])
    def test_numbers_at_sizes_that_the_export_never_saw(
        self, free: Exported, convnet4: LoadedNetwork, size: tuple[int, int]
    ) -> None:
        """The file gives what PyTorch gives."""
        images = np.random.default_rng(5).integers(0, 256, (4, *size, 1), np.uint8)
        rule = replace(convnet4.preprocessing, input_size=(1, *size))
        with torch.no_grad():
            expected = convnet4.network(rule.normalise(torch.from_numpy(images)))
        (logits,) = session(free).run(["logits"], {"image": images})
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

    def test_file_and_configuration(self, free: Exported) -> None:
        """Both leave height and width open; the rule for images keeps the network's own size."""
        assert session(free).get_inputs()[0].shape == ["batch", "height", "width", 1]
        config = text_format.Parse((free.folder.parent / "config.pbtxt").read_text(), inference.ModelConfig())
        assert [list(each.dims) for each in (*config.input, *config.output)] == [[-1, -1, 1], [10], [10]]
        rule = free.manifest.preprocessing
        assert (rule.height, rule.width) == (8, 8)

    def test_manifest(self, free: Exported) -> None:
        """Shapes have -1 where they are free; every output was compared at two sizes, every shape is known at both."""
        layers = {layer.name: list(layer.shape) for layer in free.manifest.layer_map.layers}
        assert list(free.manifest.inputs[0].shape) == [-1, -1, -1, 1]
        assert (layers["act1"], layers["pool"], layers["head"]) == ([-1, 32, -1, -1], [-1, 32, -1, -1], [-1, 10])
        checks = {(check.batch, check.height, check.width) for check in free.manifest.parity.checks}
        assert checks == {(batch, *size) for batch in (1, 2, 3, 5) for size in ((8, 8), (45, 61))}
        found = free.manifest.shapes
        assert (found.module_outputs_verified, found.other_values_verified) == (12, 5)

    def test_the_written_model_holds(self, free: Exported) -> None:
        """`zoonnx check` runs it at both sizes."""
        (report,) = check_model(free.folder)
        assert {finding.result for finding in report.findings} == {"holds"}
        about = {finding.check: finding.about for finding in report.findings}
        assert "at batch 1 and 3, each at 2 sizes" in about["shapes"]

    def test_a_map_that_grows_with_the_input(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A raw output's sizes are free where they follow the input's."""
        exported = raw(nn.Conv2d(1, 3, 3, stride=2, padding=1), convnet4, tmp_path / "models")
        tensors = [list(each.shape) for each in (*exported.manifest.inputs, *exported.manifest.outputs)]
        assert tensors == [[-1, 1, -1, -1], [-1, 3, -1, -1]]
        (report,) = check_model(exported.folder)
        assert {finding.result for finding in report.findings if finding.check != "preprocessing"} == {"holds"}

    def test_a_norm_that_needs_more_than_one_place(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """PyTorch's capture wants a least size for it; the file holds below that as well, wherever the network runs."""
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2), nn.InstanceNorm2d(4), nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        ).eval()
        exported = raw(network, convnet4, tmp_path / "models")
        for size in ((5, 5), (6, 9), (41, 20)):
            x = torch.rand(2, 1, *size)
            (got,) = session(exported).run(None, {"x": x.numpy()})
            np.testing.assert_allclose(got, network(x).detach().numpy(), atol=1e-4)

    def test_a_fixed_size_stays_in_the_older_form(self, exported: Exported) -> None:
        """Without the option no check names a size."""
        assert {(check.height, check.width) for check in exported.manifest.parity.checks} == {(0, 0)}


class Hourglass(nn.Module):
    """A U-Net of two levels, which takes multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.out = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(8, 2, 1),
        )
        self.pool, self.up = nn.MaxPool2d(4), nn.Upsample(scale_factor=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to (N, 2, H, W)."""
        fine = self.fine(x)
        y: torch.Tensor = self.out(torch.cat([fine, self.up(self.coarse(self.pool(fine)))], dim=1))
        return y


def test_a_net_for_multiples(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """It is checked at a multiple, and right at others; where PyTorch cannot run it, the file cannot either."""
    network = Hourglass().eval()
    exported = raw(network, convnet4, tmp_path)
    checked = {(check.height, check.width) for check in exported.manifest.parity.checks}
    assert checked == {(8, 8), (44, 60)}
    x = np.random.default_rng(1).standard_normal((3, 1, 12, 28), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x))
    (got,) = session(exported).run(None, {"x": x})
    np.testing.assert_allclose(got, expected, atol=1e-5)


class TestRefusals:
    """What takes one size alone leaves nothing behind."""

    @pytest.mark.parametrize(
        ("network", "layer"),
        [("mlp", "fc1"), ("lenet5", "c5"), ("resnet8", "layer2.0"), ("vit_tiny_patch16_224", "patch_embed")],
    )
    def test_a_net_for_one_size(
        self, network: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit status 2, the layer is named, nothing is written."""
        with pytest.raises(SystemExit) as end:
            dispatcher.main(["export", network, "--to", str(tmp_path / "models"), "--dynamic-size"])
        words = capsys.readouterr().err
        assert (end.value.code, list(tmp_path.iterdir())) == (2, [])
        assert "height and width cannot be free: the network fails on an input of" in words
        assert f"in its layer '{layer}'" in words

    def test_padding_by_size(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """TensorFlow's padding keeps torch.export busy for ever: it is refused before, with the layer."""
        network = nn.Sequential(nn.Conv2d(1, 2, 1), Conv2dSame(2, 2, 3, stride=2)).eval()
        with pytest.raises(UnsupportedNetworkError, match=r"layer '1' \(Conv2dSame\) pads by the size of its input"):
            raw(network, convnet4, tmp_path / "models")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("size", "words"),
        [
            (3, r"file would hold only where Eq\(Mod\(height, 3\), 0\), not for an input of 2x1x44x61"),
            (4, "height and width cannot be free: onnxruntime cannot run the model on x of .* in its layer '1': "),
        ],
    )
    def test_pooling_to_a_size(self, convnet4: LoadedNetwork, tmp_path: Path, size: int, words: str) -> None:
        """What torch.onnx unrolls for its example's size is wrong at another one."""
        network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(size)).eval()
        with pytest.raises(ConversionError, match=words):
            raw(network, convnet4, tmp_path / "models")
        assert list(tmp_path.iterdir()) == []

    def test_logits_that_grow_with_the_image(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """Classes are as many at every size."""
        loaded = replace(convnet4, network=nn.Flatten().eval(), labels=())
        with pytest.raises(UnsupportedNetworkError, match="at 2 sizes the network gives 64 and 2745 logits"):
            export_model(loaded, ExportSettings(to=tmp_path / "models", name="n", dynamic_size=True))
        assert list(tmp_path.iterdir()) == []

    def test_a_size_that_the_file_took_for_a_constant(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """What is right at one size alone is found at the other."""

        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(1, 4, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                places = x.shape[2] * x.shape[3] if not torch.compiler.is_compiling() else 45 * 61
                return self.conv(x).sum((2, 3)) / places

        with pytest.raises(ParityError, match="departs from PyTorch at batch 1 of 8x8"):
            raw(Scaled(), convnet4, tmp_path / "models")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("3*batch", 6),
        ("(height//4)", 2),
        ("-(-height//4)", 3),
        ("floor(height/2 - 1/2) + 1", 5),
        ("ceiling(height/2)*Max(1, batch)", 10),
        ("Min(height, 4) % 3", 1),
        ("height/2", None),
        ("unk__0", None),
        ("1/(batch - 2)", None),
        ("__import__('os')", None),
        ("batch.real", None),
        ("batch**2", None),
        ("batch +", None),
        ("", None),
    ],
)
def test_expressions(text: str, value: int | None) -> None:
    """Arithmetic on known names is worked out; everything else says nothing."""
    assert evaluate(text, {"batch": 2, "height": 9}) == value
