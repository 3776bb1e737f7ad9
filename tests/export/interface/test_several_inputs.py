"""Networks with several inputs: exported, verified, and the same layer by layer as hooks see them in PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.arrays import Array
from export.check.run import check_model
from export.errors import ExportError, SettingsError, SourceError, UnsupportedNetworkError
from export.input_spec import InputSpec
from export.onnx_model.runtime import Runtime
from export.source.module import plain_preprocessing
from protos import inference, manifest
from tests.conftest import Zoonnx

IMAGE, MASK = InputSpec((3, 8, 8)), InputSpec((1, 8, 8), limits=(0, 1))


class Variadic(nn.Module):
    """A network whose inputs have no names."""

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        return images[0] + images[1]


class Masked(nn.Module):
    """A classifier of an image whose pixels a mask weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(4, 5)

    def forward(self, image: torch.Tensor, mask: torch.Tensor, power: float = 1.0) -> torch.Tensor:
        """(N, 3, 8, 8) and (N, 1, 8, 8) to (N, 5)."""
        return self.fc((self.act(self.conv(image)) * mask**power).mean((2, 3)))


class FromDict(nn.Module):
    """The same for a dict, with a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.masked = Masked()

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """(N, 3, 8, 8) and (N, 1, 8, 8) to (N, 5)."""
        return {"scores": self.masked(batch["image"], mask=batch["mask"])}


class Scaled(nn.Module):
    """A linear layer whose parameters have the names of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)
        self.x, self.scale = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(5))

    def forward(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, *, scale: torch.Tensor, unused: torch.Tensor
    ) -> torch.Tensor:
        """(N, 4) and (N,) to (N, 5)."""
        y = self.linear(x * self.x) * self.scale * scale[:, None]
        return y if bias is None else y + bias


class Text(nn.Module):
    """Attention over tokens that a mask selects, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Two times (N, 16) to (N, 3)."""
        x = self.embedding(tokens)
        y, _ = self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)
        weights = attention_mask[..., None].to(y.dtype)
        return self.head((y * weights).sum(1) / weights.sum(1))


class Mixed(nn.Module):
    """A pair of tensors, flags, and bytes by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, pair: Any, flags: torch.Tensor, **more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 4), (N, 3), (N,) and (N,) to (N, 5) and (N,)."""
        y = self.a(pair[0]) + self.b(pair[1]) * flags[:, None]
        return y, more["level"] + flags


class Wrapper(nn.Module):
    """A network that passes its keyword arguments on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Masked()

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the inner network."""
        return self.inner(*args, **kwargs)


class Denoiser(nn.Module):
    """A step of a diffusion model: an image and the number of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.time, self.out = nn.Linear(16, 8), nn.Conv2d(8, 3, 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """(N, 3, 8, 8) and (N,) to (N, 3, 8, 8)."""
        angles = timestep[:, None].to(sample.dtype) * torch.exp(-torch.arange(8, device=sample.device) / 8).to(
            sample.dtype
        )
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        return self.out((self.norm(self.conv(sample)) + time[..., None, None]).relu())


NETWORKS: dict[str, tuple[nn.Module, dict[str, InputSpec]]] = {
    "masked": (Masked(), {"mask": MASK, "image": IMAGE}),
    "dict": (FromDict(), {"batch.image": IMAGE, "batch.mask": MASK}),
    "keyword": (Scaled(), {"x": InputSpec((4,)), "scale": InputSpec(()), "unused": InputSpec((2,))}),
    "optional": (
        Scaled(),
        {"x": InputSpec((4,)), "bias": InputSpec((5,)), "scale": InputSpec(()), "unused": InputSpec((2,))},
    ),
    "text": (Text(), {"tokens": InputSpec((16,), "int64", (0, 49)), "attention_mask": InputSpec((16,), "int64")}),
    "mixed": (
        Mixed(),
        {
            "pair.0": InputSpec((4,)),
            "pair.1": InputSpec((3,)),
            "flags": InputSpec((), "bool"),
            "level": InputSpec((), "uint8"),
        },
    ),
    "wrapper": (Wrapper(), {"image": IMAGE, "mask": MASK}),
    "denoiser": (Denoiser(), {"sample": IMAGE, "timestep": InputSpec((), "int64", (0, 99))}),
    "renamed": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), {"input": IMAGE}),
    "vector": (nn.Sequential(nn.Linear(4, 5)), {"input": InputSpec((4,))}),
}


def hooked(network: nn.Module, inputs: Mapping[str, Array]) -> tuple[Any, dict[str, Array]]:
    """Call the original network as a user does, and return its output and what hooks see of each layer."""
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in inputs.items()}
    pair = (tensors.pop("pair.0"), tensors.pop("pair.1")) if "pair.0" in tensors else None
    batch = {name[6:]: tensors.pop(name) for name in list(tensors) if name.startswith("batch.")}
    arguments = {**({"pair": pair} if pair else {}), **({"batch": batch} if batch else {}), **tensors}
    layers: dict[str, Array] = {}

    def hook(path: str) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor | tuple):
                layers[path] = (output if isinstance(output, torch.Tensor) else output[0]).numpy().copy()

        return record

    handles = [module.register_forward_hook(hook(path)) for path, module in network.named_modules() if path]
    with torch.no_grad():
        output = network(*arguments.values()) if isinstance(network, nn.Sequential) else network(**arguments)
    for handle in handles:
        handle.remove()
    return output, layers


@pytest.mark.parametrize("case", NETWORKS)
def test_export(case: str, tmp_path: Path) -> None:
    """Outputs and layers are PyTorch's, shapes are verified, and all files agree with each other."""
    network, inputs = NETWORKS[case]
    torch.manual_seed(0)
    exported = export_model(network.eval(), ExportSettings(to=tmp_path, name="n", raw=True, inputs=inputs))
    written = exported.manifest
    assert {tensor.name: list(tensor.shape) for tensor in written.inputs} == {
        name: [-1, *spec.shape] for name, spec in inputs.items()
    }
    assert written.shapes.module_outputs_verified == written.shapes.module_outputs > 0
    assert {check.batch for check in written.parity.checks} == {1, 2, 3, 5}
    assert [failure for report in check_model(tmp_path / "n") for failure in report.failures] == []
    assert len(list((exported.folder / "test_data_set_0").glob("input_*.pb"))) == len(inputs)
    random = np.random.default_rng(7)
    feeds = {name: random_values(spec, random) for name, spec in inputs.items()}
    output, layers = hooked(network, feeds)
    values = {layer.name: layer.value for layer in written.layer_map.layers if layer.value}
    model = onnx.load(exported.folder / "model.onnx")
    computed = Runtime(model, values.values()).run(feeds)
    for name, value in values.items():
        np.testing.assert_allclose(computed[value], layers[name], rtol=1e-4, atol=1e-5)
    expected = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
    for tensor, array in zip(written.outputs, expected, strict=True):
        np.testing.assert_allclose(computed[tensor.name], array.numpy(), rtol=1e-4, atol=1e-5)


def random_values(spec: InputSpec, random: np.random.Generator) -> Array:
    """Return four rows within the limits."""
    low, high = spec.bounds or (-2, 2)
    values = (
        random.uniform(low, high, (4, *spec.shape))
        if spec.is_float
        else random.integers(low, high + 1, (4, *spec.shape))
    )
    return values.astype(spec.dtype)


def test_files(tmp_path: Path) -> None:
    """config.pbtxt, the manifest and the report describe every input; the bytes are the same in every run."""
    from google.protobuf import text_format

    inputs = {"image": IMAGE, "mask": MASK}
    for folder in ("a", "b"):
        settings = ExportSettings(to=tmp_path / folder / "models", name="n", raw=True, inputs=inputs)
        exported = export_model(seeded(), settings)
    config = text_format.Parse((tmp_path / "b/models/n/config.pbtxt").read_text(), inference.ModelConfig())
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [("image", [3, 8, 8]), ("mask", [1, 8, 8])]
    limits = {tensor.name: (tensor.limits.low, tensor.limits.high) for tensor in exported.manifest.inputs}
    assert limits == {"image": (0, 0), "mask": (0, 1)}
    assert not exported.manifest.inputs[0].HasField("limits")
    report = exported.report.read_text()
    assert "Values of the inputs: `mask` from 0 to 1." in report
    assert "its rules are for networks with one image as their input" in report
    files = [path.relative_to(tmp_path / "a/models") for path in (tmp_path / "a/models").rglob("*") if path.is_file()]
    assert all(
        (tmp_path / "a/models" / file).read_bytes() == (tmp_path / "b/models" / file).read_bytes() for file in files
    )


def seeded() -> nn.Module:
    """Return the same network at each call."""
    torch.manual_seed(0)
    return Masked().eval()


def test_dynamic_size(tmp_path: Path) -> None:
    """One float32 image may have a dynamic size under any name; several inputs have fixed sizes."""
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    settings = ExportSettings(to=tmp_path, name="n", raw=True, dynamic_size=True, inputs={"input": IMAGE})
    written = export_model(convolution, settings).manifest
    assert list(written.inputs[0].shape) == [-1, 3, -1, -1]
    settings = ExportSettings(to=tmp_path, name="m", raw=True, dynamic_size=True, inputs={"image": IMAGE, "mask": MASK})
    with pytest.raises(SettingsError, match="one float32 image, but the network has the inputs image, mask"):
        export_model(Masked().eval(), settings)


class MaskLayer(nn.Module):
    """A network with a layer and an output that have the name of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Two times (N, 4) to (N, 4)."""
        return self.mask(x) * mask


class Branching(Masked):
    """A network whose forward branches on the batch of its second input."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor, power: float = 1.0) -> torch.Tensor:
        """(N, 3, 8, 8) and (N, 1, 8, 8) to (N, 5)."""
        return super().forward(image, mask * 2 if len(mask) > 1 else mask)


@pytest.mark.parametrize(
    ("network", "inputs", "error", "message"),
    [
        (
            Masked(),
            {"image": IMAGE},
            SettingsError,
            r"also needs 'mask'; it has the arguments image, mask, power \(opt",
        ),
        (
            Masked(),
            {"imag": IMAGE, "mask": MASK},
            SettingsError,
            "no argument 'imag'; it has image, mask, .*mean 'image'",
        ),
        (
            Variadic(),
            {"images.0": IMAGE, "images.1": IMAGE},
            SettingsError,
            r"no argument 'images'; it has \*images: write a forward that names each of its inputs",
        ),
        (
            Masked(),
            {"image": InputSpec((2, 8, 8)), "mask": MASK},
            UnsupportedNetworkError,
            r"on inputs of 2x8x8, 1x8x8 in its layer 'conv': .* image=2,8,8:float32, mask=1,8,8:float32:0..1: correct",
        ),
        (
            Text(),
            {"tokens": InputSpec((16,), "int64", (0, 50)), "attention_mask": InputSpec((16,), "int64")},
            UnsupportedNetworkError,
            "in its layer 'embedding': IndexError: .* tokens=16:int64:0..50",
        ),
        (
            Text(),
            {"tokens": InputSpec((16,), "int64", (0, 49)), "attention_mask": InputSpec((16,), limits=(0, 1))},
            UnsupportedNetworkError,
            "are not all finite: each image must have a finite row. .* set limits: --input",
        ),
        (
            MaskLayer(),
            {"x": InputSpec((4,)), "mask": InputSpec((4,))},
            UnsupportedNetworkError,
            "the layer 'mask' .* has the name of the model's input, .* rename the module, the argument",
        ),
        (Branching(), {"image": IMAGE, "mask": MASK}, ExportError, r"batch = 2 .len\(\) fixes it"),
    ],
    ids=["missing", "unknown", "variadic", "shape", "limits", "empty-mask", "layer-name", "branch"],
)
def test_mistakes(
    network: nn.Module, inputs: dict[str, InputSpec], error: type[ExportError], message: str, tmp_path: Path
) -> None:
    """A wrong description is rejected with the network's arguments, and nothing is written."""
    with pytest.raises(error, match=message):
        export_model(network.eval(), ExportSettings(to=tmp_path, name="n", raw=True, inputs=inputs))
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_required(tmp_path: Path) -> None:
    """A network with several inputs and no description of them is rejected with what to add."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    with pytest.raises(SettingsError, match=r"arguments image, mask, .*, --input image=SHAPE --input mask=SHAPE"):
        export_model(Masked().eval(), settings, preprocessing=plain_preprocessing((3, 8, 8)))
    with pytest.raises(SourceError, match="describe its inputs with --raw --input NAME=SHAPE"):
        export_model(Masked().eval(), settings)


def test_contradicting_settings(tmp_path: Path) -> None:
    """Inputs are for raw models, and exclude preprocessing."""
    with pytest.raises(SettingsError, match="the inputs image are for raw models: add --raw"):
        ExportSettings(to=tmp_path, name="n", inputs={"image": IMAGE})
    settings = ExportSettings(to=tmp_path, name="n", raw=True, inputs={"image": IMAGE})
    with pytest.raises(SettingsError, match="preprocessing is for images, but the settings have inputs"):
        export_model(Masked().eval(), settings, preprocessing=plain_preprocessing((3, 8, 8)))


SOURCE = """
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 5)

    def forward(self, image, mask):
        return self.fc(image * mask)

def build():
    return Masked().eval()
"""


def test_network_by_name(tmp_path: Path) -> None:
    """The inputs of a network that zoo builds by name can be described, too."""
    inputs = {"x": InputSpec((1, 8, 8))}
    written = export_model("convnet4", ExportSettings(to=tmp_path, name="n", raw=True, inputs=inputs)).manifest
    assert ([tensor.name for tensor in written.inputs], written.source.weights) == (["x"], manifest.WEIGHTS_RANDOM)


def test_command_line(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """--input is repeatable; options for images and variants are refused beside it."""
    (tmp_path / "masked_source.py").write_text(SOURCE)
    arguments = (
        "export",
        "masked_source:build",
        "--to",
        "models",
        "--raw",
        "--input",
        "image=4",
        "--input",
        "mask=4:0..1",
    )
    done = zoonnx(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "models/build/1/test_data_set_0").iterdir()) == [
        "input_0.pb",
        "input_1.pb",
        "output_0.pb",
    ]
    refused = {
        ("--input-size", "3,8,8"): "--input-size: for one image, but --input describes the network's inputs",
        ("--variants", "fp16"): "variants are made of models with one image as their input",
    }
    for option, message in refused.items():
        done = zoonnx(*arguments, *option, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr


def test_layers_of_every_input(tmp_path: Path) -> None:
    """A layer that is called with any of the inputs is in the file."""
    network, inputs = NETWORKS["mixed"]
    written = export_model(network.eval(), ExportSettings(to=tmp_path, name="n", raw=True, inputs=inputs)).manifest
    assert {layer.name: layer.status for layer in written.layer_map.layers} == {
        "a": manifest.EXACT,
        "b": manifest.EXACT,
    }
