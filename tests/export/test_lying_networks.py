"""Networks made to differ from their file without a check noticing: each is exported right, or rejected in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import ExportSettings, export_model
from export.errors import ExportError
from export.input_spec import InputSpec
from protos import manifest
from tests.export.comparison import arrays, require_equal, seeded

VECTOR, IMAGE = InputSpec((6,)), InputSpec((3, 8, 8))
SIGNED, TOKENS = InputSpec((6,), "int32", (-100, 100)), InputSpec((8,), "int64", (0, 29999))


class Net(nn.Module):
    """Calls a function of the test with itself and its input; `layers` are set on it."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Pair(Net):
    """The same with a second input."""

    def forward(self, x: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        return self.function(self, (x, mask))


def linear(function: Callable[[Any, Tensor], Any], features: int = 3, **layers: Any) -> Net:
    """Return a network with a linear layer `fc`."""
    return Net(function, fc=nn.Linear(6, features), **layers)


def conv(function: Callable[[Any, Tensor], Any], **layers: Any) -> Net:
    """Return a network with a convolution `conv`."""
    return Net(function, conv=nn.Conv2d(3, 4, 3, padding=1), **layers)


class InferenceMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)))  # type: ignore[no-any-return]


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 16) / 16

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Deviation(NamedTuple):
    z: Tensor
    a: Tensor


def hooks() -> nn.Module:
    network = Net(lambda net, x: net.last(net.act(net.first(x))))
    network.first, network.act, network.last = nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
    network.first.register_forward_pre_hook(lambda _module, args: (args[0] * 2,))
    network.first.register_forward_hook(lambda _module, _args, output: output + 1)
    network.act.register_forward_hook(lambda *args: args[-1].clamp(max=3), with_kwargs=True, always_call=True)
    network.last.register_full_backward_hook(lambda *_: None)
    network.last.register_full_backward_pre_hook(lambda *_: None)
    network.register_forward_hook(lambda _module, _args, output: output * 2)
    return network


def loop(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    for _ in range(3):
        y = net.act(net.block(net.act(y)))
    return F.linear(y.mean((2, 3)), net.conv.weight.mean((2, 3)).t())


def routed(net: Any, x: Tensor) -> Tensor:
    order = net.gate(x).argmax(1).float().argsort()
    return net.fc(x[order])[order.argsort()]  # type: ignore[no-any-return]


def equal_outputs(net: Any, x: Tensor) -> Any:
    y = net.fc(x)
    return {"z": y, "a": y, "m": (y + 0, Deviation(y.clone(), -y)), "k": y.view(-1, 3)}


def resized(net: Any, x: Tensor) -> list[Tensor]:
    y = net.conv(x)
    return [
        F.interpolate(y, size=(13, 5), mode="bicubic", align_corners=True),
        F.interpolate(y, size=(4, 4), mode="bilinear", antialias=True),
        F.interpolate(y, size=(13, 5), mode="nearest-exact"),
        F.interpolate(y, scale_factor=1.7, mode="nearest"),
        F.interpolate(y, scale_factor=0.6, mode="bilinear", recompute_scale_factor=True),
    ]


def padded() -> nn.Module:
    circular = nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular")
    reflect = nn.Conv2d(4, 4, 3, padding=(2, 1), padding_mode="reflect", dilation=2)
    same = nn.Conv2d(4, 4, 4, padding="same", padding_mode="replicate")
    up = nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1, dilation=2, groups=2)
    average = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
    layers = (circular, reflect, same, nn.ZeroPad2d((-1, 2, 3, -2)), up, average)
    pool = nn.MaxPool2d(2, 3, dilation=2, ceil_mode=True)
    return Net(lambda net, x: net.layers(x), layers=nn.Sequential(*layers, pool, nn.LPPool2d(2, 2)))


def views(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.fc(x)
    y[:, 0] = 5
    y[:, 1:].mul_(2)
    y.view(-1, 3)[:, 2] += 1
    return net.head(y), y.t().contiguous().t()


def integers(_: Any, x: Tensor) -> list[Tensor]:
    third = torch.div(x, -7, rounding_mode="trunc")
    return [x // 3, x % 3, torch.fmod(x, 3), x >> 1, third, x.float() % -3, x & 6, ~x, x / 4]


def rounded(_: Any, x: Tensor) -> list[Tensor]:
    halves = torch.round((x * 4).round() / 2)
    return [halves, torch.trunc(x), torch.frac(x), torch.floor_divide(x, 0.3), torch.round(x, decimals=1)]


def ties(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    y = (net.fc(x) * 2).round()
    return y.argmax(1), y.argmin(1), y.max(1).indices, y.topk(2, 1).values


def with_float64_buffer() -> nn.Module:
    network = linear(lambda net, x: ((net.fc(x) + net.large) - net.large).float())
    network.register_buffer("large", torch.full((3,), 1e9, dtype=torch.float64))
    return network


def spectrum(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    turned = torch.fft.rfft2(net.conv(x)) * torch.polar(torch.ones(8, 5), torch.arange(40.0).reshape(8, 5))
    return torch.fft.irfft2(turned, s=(8, 8)), turned.abs()


class Positions(nn.Module):
    """Word and position embeddings of RoBERTa: token 1 is padding, which no limit of the tokens is."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(30000, 6, padding_idx=1), nn.Embedding(12, 6, padding_idx=1)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 1).long()
        return self.word(tokens) + self.position(mask.cumsum(1) * mask + 1)  # type: ignore[no-any-return]


def masked_attention(net: Any, inputs: tuple[Tensor, Tensor]) -> Any:
    x, mask = inputs
    mask = mask.clone()
    mask[:, 0] = False
    return net.attention(x, x, x, key_padding_mask=mask)


def patched(net: Any, x: Tensor) -> Tensor:
    original, F.relu = F.relu, lambda values: torch.clamp(values, -1, 1)
    try:
        return F.relu(net.fc(x)) + torch.relu(x)
    finally:
        F.relu = original


def closure() -> nn.Module:
    network = linear(lambda net, x: net.fc(x))
    original = network.fc.forward
    network.fc.forward = lambda x: original(x) * 3
    return network


RIGHT: dict[str, tuple[Callable[[], nn.Module], InputSpec]] = {
    "inference mode and in place": (InferenceMode, IMAGE),
    "loops over shared modules": (
        lambda: conv(loop, block=nn.Conv2d(4, 4, 3, padding=1), act=nn.ReLU(inplace=True)),
        IMAGE,
    ),
    "hooks": (hooks, VECTOR),
    "log(exp + exp)": (
        lambda: linear(lambda net, x: torch.logaddexp(net.fc(x), net.other(x)), other=nn.Linear(6, 3)),
        VECTOR,
    ),
    "log(sigmoid)": (lambda: linear(lambda net, x: F.logsigmoid(net.fc(x))), VECTOR),
    "equal outputs": (lambda: linear(equal_outputs), VECTOR),
    "sizes": (lambda: conv(resized), IMAGE),
    "paddings": (padded, IMAGE),
    "views in place": (lambda: linear(views, head=nn.Linear(3, 3)), VECTOR),
    "negative integers": (lambda: Net(integers), SIGNED),
    "integers that overflow": (
        lambda: Net(lambda _, x: (x * x * x, x.int(), x.to(torch.uint8), x.cumsum(1), x.float(), x**3)),
        InputSpec((6,), "int64", (-(2**40), 2**40)),
    ),
    "casts to integers": (
        lambda: Net(lambda _, x: ((x * 100).to(torch.uint8), (x * 1e10).to(torch.int32), (x * 1e3).long())),
        VECTOR,
    ),
    "halves": (lambda: Net(rounded), VECTOR),
    "ties": (lambda: linear(ties, 8), VECTOR),
    "float64 buffer": (with_float64_buffer, VECTOR),
    "complex spectrum": (lambda: conv(spectrum), IMAGE),
    "straight-through rounding": (lambda: linear(lambda net, x: net.fc(StraightThrough.apply(x))), VECTOR),
    "patched functional": (lambda: linear(patched, 6), VECTOR),
    "positions": (lambda: Net(lambda net, x: net.embedding(x).mean(1), embedding=Positions()), TOKENS),
    "forward of another instance": (closure, VECTOR),
    "nothing": (lambda: Net(lambda net, x: net.identity(x), identity=nn.Identity()), VECTOR),
}


@pytest.mark.parametrize("case", RIGHT)
def test_right(case: str, tmp_path: Path) -> None:
    """Every output and layer is that of the original network, for every batch and far out of the usual range."""
    build, spec = RIGHT[case]
    network = seeded(build)
    require_equal(network, {"x": spec}, tmp_path, [{"x": array} for array in arrays(spec)])


def test_masked_attention(tmp_path: Path) -> None:
    """Attention with a key padding mask, and its weights, are the same in the file."""
    network = seeded(lambda: Pair(masked_attention, attention=nn.MultiheadAttention(6, 2, batch_first=True)))
    random = np.random.default_rng(0)
    feeds = [
        {"x": random.standard_normal((n, 5, 6), np.float32), "mask": random.random((n, 5)) < 0.5} for n in (1, 2, 7)
    ]
    require_equal(network, {"x": InputSpec((5, 6)), "mask": InputSpec((5,), "bool")}, tmp_path, feeds)


DYNAMIC: dict[str, Callable[[], nn.Module]] = {
    "fractional scale": lambda: conv(lambda net, x: F.interpolate(net.conv(x), scale_factor=1.1, mode="bilinear")),
    "largest size": lambda: conv(lambda net, x: net.conv(x)[..., : min(x.shape[3], 1000)]),
}


@pytest.mark.parametrize("case", DYNAMIC)
def test_dynamic_size(case: str, tmp_path: Path) -> None:
    """A file with dynamic sizes is right at sizes that the export did not check."""
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((2, 3, *size), np.float32)} for size in ((16, 16), (21, 35), (32, 100))]
    inputs = {"x": InputSpec((3, 13, 13))}
    require_equal(seeded(DYNAMIC[case]), inputs, tmp_path, feeds, dynamic_size=True)


BATCH_DEPENDENT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mean of the batch": (
        lambda: linear(
            lambda net, x: net.fc(net.centre(x) + x.mean(0, keepdim=True)),
            centre=Net(lambda _, x: x - x.mean(0, keepdim=True)),
        ),
        "centre",
    ),
    "reversed batch": (lambda: linear(lambda net, x: net.fc(x.flip(0)).flip(0)), "fc"),
    "experts": (lambda: linear(routed, gate=nn.Linear(6, 3)), "fc"),
}


@pytest.mark.parametrize("case", BATCH_DEPENDENT)
def test_layers_that_depend_on_the_batch(case: str, tmp_path: Path) -> None:
    """A layer with rows that depend on the rest of the batch is not offered, as a server would mix requests in it."""
    build, name = BATCH_DEPENDENT[case]
    layer_map = require_equal(seeded(build), {"x": VECTOR}, tmp_path, [{"x": array} for array in arrays(VECTOR)])
    layer = next(layer for layer in layer_map.layers if layer.name == name)
    assert (layer.status, layer.value) == (manifest.NOT_EXPORTED, "")
    assert layer.reason == "its output for an image depends on the other images of the batch, which a server chooses"


def guess_the_range(net: Any, x: Tensor) -> Tensor:
    try:
        if float(x.abs().max()) > 20:
            x = x / 255
    except Exception:  # noqa: BLE001  what users write to get past an export
        pass
    return net.fc(x)  # type: ignore[no-any-return]


def huge_float64() -> nn.Module:
    network = linear(lambda net, x: net.fc(x)).double()
    network.fc.weight.data[0, 0] = 1e300
    return network


def by_data(_: Any, x: Tensor) -> Tensor:
    x.data.mul_(2)
    return x


def late_rows(net: Any, x: Tensor) -> Tensor:
    y = net.fc(x).clone()
    y[5:] *= 2
    return y  # type: ignore[no-any-return]


def seeded_noise(net: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return net.fc(x) + torch.rand(3)  # type: ignore[no-any-return]


REJECTED: dict[str, tuple[Callable[[], nn.Module], InputSpec, str]] = {
    "rare dropout": (
        lambda: linear(lambda net, x: net.fc(F.dropout(x, 1e-6))),
        VECTOR,
        "draws random numbers, .*Dropout",
    ),
    "rare noise": (
        lambda: linear(lambda net, x: net.fc(x) + (torch.rand(()) < 1e-5).float()),
        VECTOR,
        "draws random numbers, .*RandomUniform",
    ),
    "noise of a seed": (lambda: linear(seeded_noise), VECTOR, "draws random numbers"),
    "guessed range": (
        lambda: linear(guess_the_range),
        VECTOR,
        r"branches on a value of a tensor at test_lying_networks.py:\d+: if float.*far out of the usual range",
    ),
    "shifted bytes": (
        lambda: Net(lambda _, x: x >> 2),
        InputSpec((6,), "uint8"),
        "computes the network's output 'output' as int8, but PyTorch's is uint8: cast it",
    ),
    "huge float64": (huge_float64, VECTOR, r"'fc.weight' has values up to 1e\+300, but .* float32, which ends at"),
    "writes to data": (
        lambda: linear(lambda net, x: net.twice(net.fc(x)), twice=Net(by_data)),
        VECTOR,
        "torch.onnx cannot convert Net",
    ),
    "angle of negative zero": (
        lambda: Net(lambda _, x: torch.atan2(x, x.flip(1).round())),
        VECTOR,
        "the ONNX model's 'output' differs from PyTorch",
    ),
    "sixth row": (lambda: linear(late_rows), VECTOR, "the witnesses disagree on the shape"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(case: str, tmp_path: Path) -> None:
    """A network whose file could differ is rejected with the cause, and nothing is written."""
    build, spec, message = REJECTED[case]
    settings = ExportSettings(to=tmp_path, name="n", raw=True, inputs={"x": spec})
    with pytest.raises(ExportError, match=message):
        export_model(seeded(build), settings)
    assert list(tmp_path.iterdir()) == []


def test_nested_tensors(tmp_path: Path) -> None:
    """An encoder that packs padded sequences only without hooks is rejected with the option that prevents this."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def encode(net: Any, inputs: tuple[Tensor, Tensor]) -> Any:
        x, mask = inputs
        return net.encoder(x, src_key_padding_mask=mask & (torch.arange(5) > 0))

    network = Pair(encode, encoder=nn.TransformerEncoder(layer, 2)).eval()
    inputs = {"x": InputSpec((5, 8)), "mask": InputSpec((5,), "bool")}
    with pytest.raises(ExportError, match=r"'encoder.layers.0' .* nested tensor, .* enable_nested_tensor=False"):
        export_model(network, ExportSettings(to=tmp_path, name="n", raw=True, inputs=inputs))


def test_an_export_in_inference_mode(tmp_path: Path) -> None:
    """A caller's inference mode, also when the weights were made, does not hide what a layer computes in place."""
    with torch.inference_mode():
        network = seeded(
            lambda: conv(
                lambda net, x: net.head(net.act(net.conv(x))), act=nn.ReLU(inplace=True), head=nn.Conv2d(4, 2, 1)
            )
        )
        require_equal(network, {"x": IMAGE}, tmp_path, [{"x": array} for array in arrays(IMAGE)])


def special_token(net: Any, x: Tensor) -> Tensor:
    y = net.embedding(x)
    return y.mean(1) + net.embedding.masked.mean(1)  # type: ignore[no-any-return]


class Stashing(nn.Module):
    """Returns its embeddings, and keeps those without one special token in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30000, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.table(tokens) * 2
        self.masked = y * (tokens != 12345)[..., None]
        return y  # type: ignore[no-any-return]


@pytest.mark.xfail(strict=True, reason="no input of the checks has the token, and the layer map takes the later value")
def test_a_value_that_no_check_has(tmp_path: Path) -> None:
    """A layer is not taken for another value of its module that differs for one token of 30,000 only."""
    network = seeded(lambda: Net(special_token, embedding=Stashing()))
    require_equal(network, {"x": TOKENS}, tmp_path, [{"x": np.full((2, 8), 12345)}])


def ask_for_the_class(net: Any, x: Tensor) -> Tensor:
    if type(x) is torch.Tensor and bool(x.abs().max() > 20):
        x = x / 255
    return net.fc(x)  # type: ignore[no-any-return]


@pytest.mark.xfail(strict=True, reason="the float64 run, whose tensors have another class, takes the file's branch")
def test_a_branch_on_the_class_of_a_tensor(tmp_path: Path) -> None:
    """A network that scales large inputs, except those of an export, is rejected."""
    network = seeded(lambda: linear(ask_for_the_class))
    require_equal(network, {"x": VECTOR}, tmp_path, [{"x": np.full((1, 6), 100, np.float32)}])


def warm_up(net: Any, x: Tensor) -> Tensor:
    net.calls += 1
    return net.fc(x) * torch.where(net.calls > 60, 2.0, 1.0)  # type: ignore[no-any-return]


@pytest.mark.xfail(strict=True, reason="the export calls the network fewer than 60 times")
def test_a_state_that_acts_late(tmp_path: Path) -> None:
    """A network whose output changes after 60 calls is not exported as it was before."""
    network = seeded(lambda: linear(warm_up))
    network.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    require_equal(network, {"x": VECTOR}, tmp_path, [{"x": np.ones((1, 6), np.float32)}] * 70)


@pytest.mark.xfail(strict=True, reason="outputs may depend on the rest of the batch by 1e-3 of their largest value")
def test_a_slight_dependence_on_the_batch(tmp_path: Path) -> None:
    """A network whose output moves by 8e-4 of the batch's mean is rejected."""
    network = seeded(lambda: linear(lambda net, x: net.fc(x) - 8e-4 * net.fc(x).mean(0)))
    with pytest.raises(ExportError, match="depend on the other images"):
        export_model(network, ExportSettings(to=tmp_path, name="n", raw=True, inputs={"x": VECTOR}))
