"""Exports with dynamic height and width, and the rejection of networks that accept only one size."""

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
from zoo import LoadedNetwork, load_network
from zoo.networks.resnet_cifar import BasicBlock


@pytest.fixture(scope="module")
def dynamic(convnet4: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return an export of convnet4 with dynamic size."""
    to: Path = tmp_path_factory.mktemp("dynamic") / "models"
    return export_model(convnet4, ExportSettings(to=to, name="dynamic", dynamic_size=True))


def export_raw(network: nn.Module, convnet4: LoadedNetwork, to: Path) -> Exported:
    """Export `network` raw, with dynamic size."""
    loaded = replace(convnet4, network=network.eval(), labels=())
    return export_model(loaded, ExportSettings(to=to, name="raw", raw=True, dynamic_size=True))


def session(exported: Exported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])


def test_a_variant_is_checked(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """A variant of a model with dynamic size passes the check, although its manifest lists no checked sizes."""
    settings = VariantSettings(("fp16",), bounds=Bounds(min_speedup=0))
    planned = plan(convnet4, tmp_path, "network", settings)
    exported = export_model(convnet4, ExportSettings(to=tmp_path, name="network", dynamic_size=True))
    assert [outcome.verdict.accepted for outcome in make_variants(planned, exported.folder)] == [True]
    reports = [report for name in ("network", "network-fp16") for report in check_model(tmp_path / name)]
    assert [failure for report in reports for failure in report.failures] == []


class TestFile:
    """The files of an export of a network with global pooling."""

    @pytest.mark.parametrize("size", [(8, 8), (33, 20), (96, 31)])
    def test_numbers_at_unchecked_sizes(
        self, dynamic: Exported, convnet4: LoadedNetwork, size: tuple[int, int]
    ) -> None:
        """The file computes the same as PyTorch."""
        images = np.random.default_rng(5).integers(0, 256, (4, *size, 1), np.uint8)
        preprocessing = replace(convnet4.preprocessing, input_size=(1, *size))
        with torch.no_grad():
            expected = convnet4.network(preprocessing.normalise(torch.from_numpy(images)))
        (logits,) = session(dynamic).run(["logits"], {"image": images})
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

    def test_file_and_configuration(self, dynamic: Exported) -> None:
        """Height and width are dynamic in the file and its config; the preprocessing keeps the network's own size."""
        assert session(dynamic).get_inputs()[0].shape == ["batch", "height", "width", 1]
        config = text_format.Parse((dynamic.folder.parent / "config.pbtxt").read_text(), inference.ModelConfig())
        assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[-1, -1, 1], [10], [10]]
        preprocessing = dynamic.manifest.preprocessing
        assert (preprocessing.height, preprocessing.width) == (8, 8)

    def test_manifest(self, dynamic: Exported) -> None:
        """Dynamic dimensions are -1; every output was compared at two sizes, and every shape is verified at both."""
        layers = {layer.name: list(layer.shape) for layer in dynamic.manifest.layer_map.layers}
        assert list(dynamic.manifest.inputs[0].shape) == [-1, -1, -1, 1]
        assert (layers["act1"], layers["pool"], layers["head"]) == ([-1, 32, -1, -1], [-1, 32, -1, -1], [-1, 10])
        checks = {(check.batch, check.height, check.width) for check in dynamic.manifest.parity.checks}
        assert checks == {(batch, *size) for batch in (1, 2, 3, 5) for size in ((8, 8), (45, 61))}
        shapes = dynamic.manifest.shapes
        assert (shapes.module_outputs_verified, shapes.other_values_verified) == (12, 5)

    def test_check_of_the_written_model(self, dynamic: Exported) -> None:
        """`zoonnx check` passes, and runs the model at both sizes."""
        (report,) = check_model(dynamic.folder)
        assert {result.status for result in report.results} == {"verified"}
        details = {result.check: result.details for result in report.results}
        assert "at batch 1 and 3, each at 2 sizes" in details["shapes"]

    def test_output_that_grows_with_the_input(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """The dimensions of a raw output that depend on the input's size are dynamic."""
        exported = export_raw(nn.Conv2d(1, 3, 3, stride=2, padding=1), convnet4, tmp_path / "models")
        shapes = [list(tensor.shape) for tensor in (*exported.manifest.inputs, *exported.manifest.outputs)]
        assert shapes == [[-1, 1, -1, -1], [-1, 3, -1, -1]]
        (report,) = check_model(exported.folder)
        assert {result.status for result in report.results if result.check != "preprocessing"} == {"verified"}

    def test_norm_with_a_minimum_size(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """The file is correct at all sizes at which the network runs, even below the minimum of PyTorch's capture."""
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2), nn.InstanceNorm2d(4), nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        ).eval()
        exported = export_raw(network, convnet4, tmp_path / "models")
        for size in ((5, 5), (6, 9), (41, 20)):
            x = torch.rand(2, 1, *size)
            (output,) = session(exported).run(None, {"x": x.numpy()})
            np.testing.assert_allclose(output, network(x).detach().numpy(), atol=1e-4)

    def test_fixed_size_in_the_manifest(self, exported: Exported) -> None:
        """Without dynamic size, the manifest's checks have no size."""
        assert {(check.height, check.width) for check in exported.manifest.parity.checks} == {(0, 0)}


class Hourglass(nn.Module):
    """A U-Net of two levels, which accepts multiples of 4."""

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


def test_network_for_multiples(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """A network that accepts only multiples of 4 is checked at a multiple, and correct at others."""
    network = Hourglass().eval()
    exported = export_raw(network, convnet4, tmp_path)
    checked = {(check.height, check.width) for check in exported.manifest.parity.checks}
    assert checked == {(8, 8), (44, 60)}
    x = np.random.default_rng(1).standard_normal((3, 1, 12, 28), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x))
    (output,) = session(exported).run(None, {"x": x})
    np.testing.assert_allclose(output, expected, atol=1e-5)


class TestSumOfRoundedSizes:
    """A network that adds maps of sizes which are rounded up and down, and so accepts only multiples."""

    @pytest.mark.parametrize("name", ["resnet8", "resnet20"])
    def test_catalog(self, name: str, tmp_path: Path) -> None:
        """A CIFAR ResNet is exported, checked at two sizes, and correct at others."""
        loaded = load_network(name)
        exported = export_model(loaded, ExportSettings(to=tmp_path, name=name, dynamic_size=True))
        checked = {(check.height, check.width) for check in exported.manifest.parity.checks}
        assert checked == {(32, 32), (68, 84)}
        for size in ((4, 4), (12, 28), (100, 32)):
            images = np.random.default_rng(5).integers(0, 256, (3, *size, 3), np.uint8)
            preprocessing = replace(loaded.preprocessing, input_size=(3, *size))
            with torch.no_grad():
                expected = loaded.network(preprocessing.normalise(torch.from_numpy(images)))
            (logits,) = session(exported).run(["logits"], {"image": images})
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)

    def test_dimensions(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """The file's dimensions are expressions of height and width, which `check` verifies."""
        exported = export_raw(BasicBlock(1, 4, 2, "batch"), convnet4, tmp_path)
        (source,), (output,) = session(exported).get_inputs(), session(exported).get_outputs()
        assert source.shape == ["batch", 1, "height", "width"]
        sizes = [evaluate(dim, {"height": 12, "width": 28}) for dim in output.shape[2:]]
        assert (output.shape[:2], sizes) == (["batch", 4], [6, 14])
        (report,) = check_model(exported.folder)
        assert {result.status for result in report.results if result.check != "preprocessing"} == {"verified"}

    def test_a_branch_among_the_multiples(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A branch on a multiple is found, although PyTorch fails at the sizes between."""

        class Branching(BasicBlock):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = super().forward(x)
                return y * 2 if x.shape[2] % 8 == 0 else y

        with pytest.raises(ConversionError, match=r"valid only where .*height"):
            export_raw(Branching(1, 4, 2, "batch"), convnet4, tmp_path / "models")
        assert list(tmp_path.iterdir()) == []


class TestRejections:
    """A network that accepts only one size is rejected, and nothing is written."""

    @pytest.mark.parametrize(
        ("network", "layer"),
        [("mlp", "fc1"), ("lenet5", "c5"), ("vit_tiny_patch16_224", "patch_embed")],
    )
    def test_network_for_one_size(
        self, network: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The command ends with status 2 and the name of the layer."""
        with pytest.raises(SystemExit) as end:
            dispatcher.main(["export", network, "--to", str(tmp_path / "models"), "--dynamic-size"])
        message = capsys.readouterr().err
        assert (end.value.code, list(tmp_path.iterdir())) == (2, [])
        assert "height and width cannot be dynamic: the network fails on an input of" in message
        assert f"in its layer '{layer}'" in message

    def test_padding_by_size(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A layer with TensorFlow's padding is rejected before torch.export, which would not terminate."""
        network = nn.Sequential(nn.Conv2d(1, 2, 1), Conv2dSame(2, 2, 3, stride=2)).eval()
        with pytest.raises(UnsupportedNetworkError, match=r"layer '1' \(Conv2dSame\) pads by the size of its input"):
            export_raw(network, convnet4, tmp_path / "models")
        assert list(tmp_path.iterdir()) == []

    def test_logits_that_grow_with_the_image(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A network whose number of classes depends on the input's size is rejected."""
        loaded = replace(convnet4, network=nn.Flatten().eval(), labels=())
        with pytest.raises(UnsupportedNetworkError, match="at 2 sizes the network returns 64 and 2745 logits"):
            export_model(loaded, ExportSettings(to=tmp_path / "models", name="n", dynamic_size=True))
        assert list(tmp_path.iterdir()) == []

    def test_size_as_a_constant(self, convnet4: LoadedNetwork, tmp_path: Path) -> None:
        """A graph that is correct at only one of the two checked sizes is rejected."""

        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(1, 4, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                places = x.shape[2] * x.shape[3] if not torch.compiler.is_compiling() else 45 * 61
                return self.conv(x).sum((2, 3)) / places

        with pytest.raises(ParityError, match="differs from PyTorch at batch 1 of 8x8"):
            export_raw(Scaled(), convnet4, tmp_path / "models")
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
    """Arithmetic on known names is evaluated; all else is None."""
    assert evaluate(text, {"batch": 2, "height": 9}) == value


class Pool(nn.Module):
    """Pools adaptively without a layer."""

    def __init__(self, size: tuple[int | None, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, self.size)


@pytest.mark.parametrize(
    ("pool", "size"),
    [(nn.AdaptiveAvgPool2d(3), "3x3"), (nn.AdaptiveAvgPool2d((2, 1)), "2x1"), (nn.AdaptiveMaxPool2d(4), "4x4")],
)
def test_windows_that_depend_on_the_size(pool: nn.Module, size: str, convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """A layer that pools to a fixed size is rejected by name before the conversion."""
    with pytest.raises(UnsupportedNetworkError, match=f"cannot be dynamic: the layer '1' pools to a size of {size}"):
        export_raw(nn.Sequential(nn.Conv2d(1, 4, 3), pool), convnet4, tmp_path)


def test_windows_in_a_forward(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """So is a forward that calls the function."""
    with pytest.raises(UnsupportedNetworkError, match="the layer '0' pools to a size of 5x5"):
        export_raw(nn.Sequential(Pool((5, 5))), convnet4, tmp_path)


def test_pools_without_windows(convnet4: LoadedNetwork, tmp_path: Path) -> None:
    """Pooling to one place, or along one axis only, is exported."""
    assert export_raw(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)), convnet4, tmp_path).version == 1
