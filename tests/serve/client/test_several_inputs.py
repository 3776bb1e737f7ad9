"""A model with several inputs, exported and served: requests, batches, layers, clients and dumps."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from export import ExportSettings, export_model
from export.input_spec import InputSpec
from serve.client import AsyncClient, Client
from serve.errors import RefusedError
from serve.wire.tensors import Array, TensorSpec
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve


class Masked(nn.Module):
    """A network of an image, a mask and a level."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, image: torch.Tensor, mask: torch.Tensor, *, level: torch.Tensor) -> torch.Tensor:
        """(N, 3, 8, 8), (N, 8, 8) and (N,) to (N, 5)."""
        return self.fc((self.conv(image).relu() * mask[:, None]).mean((2, 3))) + level[:, None]


INPUTS = {"image": InputSpec((3, 8, 8)), "mask": InputSpec((8, 8), "bool"), "level": InputSpec((), "int64", (0, 9))}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Masked().eval()


@pytest.fixture(scope="module")
def url(network: nn.Module, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the exported network."""
    models = tmp_path_factory.mktemp("masked") / "models"
    export_model(network, ExportSettings(to=models, name="masked", raw=True, inputs=INPUTS))
    with serve(models, "--grpc-port", 0, "--provider", "cpu") as process:
        line = process.stdout.readline() if process.stdout else ""
        yield line.split()[-1]


def rows(count: int, seed: int = 0) -> dict[str, Array]:
    """Return random inputs."""
    random = np.random.default_rng(seed)
    return {
        "image": random.standard_normal((count, 3, 8, 8), np.float32),
        "mask": random.integers(0, 2, (count, 8, 8)).astype(bool),
        "level": random.integers(0, 10, count),
    }


def expected(network: nn.Module, inputs: dict[str, Array]) -> tuple[Array, Array]:
    """Return PyTorch's output, and what a hook sees of the convolution."""
    seen: list[torch.Tensor] = []
    handle = network.get_submodule("conv").register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        output = network(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    handle.remove()
    return output.numpy(), seen[0].numpy()


def test_requests(url: str, network: nn.Module) -> None:
    """Outputs and layers are PyTorch's, at every batch size and for any order of the inputs."""
    with Client(url) as client:
        assert client.model("masked").inputs == (
            TensorSpec("image", "FP32", (-1, 3, 8, 8)),
            TensorSpec("mask", "BOOL", (-1, 8, 8)),
            TensorSpec("level", "INT64", (-1,)),
        )
        for count in (1, 3, 8):
            inputs = rows(count)
            output, conv = expected(network, inputs)
            result = client.infer("masked", dict(reversed(inputs.items())))["output"]
            np.testing.assert_allclose(result, output, rtol=1e-4, atol=1e-5)
            layers = client.activations("masked", inputs, ["*"])
            np.testing.assert_allclose(layers["conv"], conv, rtol=1e-4, atol=1e-5)


def test_batches(url: str, network: nn.Module) -> None:
    """Concurrent requests are batched input by input: each gets the rows of its own inputs."""

    async def infer_all() -> list[Array]:
        async with AsyncClient(url) as client:
            results = await asyncio.gather(*(client.infer("masked", rows(1 + seed % 3, seed)) for seed in range(24)))
        return [result["output"] for result in results]

    for seed, output in enumerate(asyncio.run(infer_all())):
        np.testing.assert_allclose(output, expected(network, rows(1 + seed % 3, seed))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "input 'mask' is missing; the model has image, mask, level"),
        ({"masc": np.ones((2, 8, 8), bool)}, "there is no input 'masc'"),
        ({"level": np.ones(3, np.int64)}, r"all inputs must have the same batch size; got \[2, 3\]"),
        ({"level": np.ones(2, np.int32)}, "input 'level' expects INT64; got INT32"),
        ({"level": np.ones((2, 1), np.int64)}, r"input 'level' expects shape \[-1\]; got \[2, 1\]"),
    ],
)
def test_mistakes(url: str, change: dict[str, Array | None], message: str) -> None:
    """A request that does not match the signature is refused with the input."""
    inputs = {name: array for name, array in {**rows(2), **change}.items() if array is not None}
    with Client(url) as client, pytest.raises(RefusedError, match=message):
        client.infer("masked", inputs)


class TestDump:
    """`zoonnx dump` of arrays."""

    def test_layers(self, zoonnx: Zoonnx, url: str, network: nn.Module, tmp_path: Path) -> None:
        """The file has the layers of every row, and the contact sheet shows inputs and layers."""
        inputs, out = rows(11), tmp_path / "layers.safetensors"
        np.savez(tmp_path / "rows.npz", **{**inputs, "image": inputs["image"].astype(np.float64)})
        done = zoonnx("dump", tmp_path / "rows.npz", "--model", "masked", "--url", url, "--out", out)
        assert (done.returncode, done.stderr) == (0, "")
        assert "saved 2 layers of 11 rows" in done.stdout
        np.testing.assert_allclose(load_file(out)["conv"], expected(network, inputs)[1], rtol=1e-4, atol=1e-5)
        assert out.with_suffix(".png").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mask": None}, "has the arrays image, level; model 'masked' has the inputs image, mask, level"),
            ({"mask": np.ones((2, 8, 8))}, "'mask' is float64, but the model's input is BOOL"),
            (
                {"level": np.ones(3, np.int64)},
                "must have the same number of rows first, 1 or more; got image [2, 3, 8, 8]",
            ),
            ({"level": np.ones((), np.int64)}, "must have the same number of rows first"),
        ],
    )
    def test_mistakes(
        self, zoonnx: Zoonnx, url: str, tmp_path: Path, change: dict[str, Array | None], message: str
    ) -> None:
        """Arrays that are not the model's inputs are rejected in one line."""
        inputs = {name: array for name, array in {**rows(2), **change}.items() if array is not None}
        np.savez(tmp_path / "rows.npz", **inputs)
        out = tmp_path / "layers.safetensors"
        done = zoonnx("dump", tmp_path / "rows.npz", "--model", "masked", "--url", url, "--out", out)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert message in done.stderr
        assert not out.exists()

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
    def test_file_that_is_no_archive(self, zoonnx: Zoonnx, url: str, tmp_path: Path, content: bytes) -> None:
        """A file that is not a .npz archive is rejected in one line, and so is a missing one."""
        (tmp_path / "rows.npz").write_bytes(content)
        for file in ("rows.npz", "none.npz"):
            out = tmp_path / "layers.safetensors"
            done = zoonnx("dump", tmp_path / file, "--model", "masked", "--url", url, "--out", out)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert f"{file} cannot be read as a .npz file of arrays" in done.stderr
