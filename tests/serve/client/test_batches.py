"""Batches beyond the server's limits: they are split, and their outputs equal those of one batch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from protos import inference
from protos.keys import MAX_MESSAGE_KEY
from serve.client import AsyncClient, Client
from serve.client.batches import Limits, limits_of, may_exceed, split
from serve.client.dump import dump_images
from serve.client.load_test import LoadSettings, measure
from serve.client.messages import infer_request
from serve.errors import RefusedError, ServerFailedError, SettingsError
from serve.wire import codec
from serve.wire.tensors import Array, Request
from tests.serve.conftest import Serve, write_identity, write_images, write_model

ROW = 60_000  # float32 values; four rows fit into a message of 1 MiB
WIDE = 2**18  # float32 values of a row of exactly 1 MiB, which with its header is too large


def row_counts(parts: list[Request]) -> list[int]:
    return [len(part.inputs[0].array) for part in parts]


class TestSplit:
    """Splitting without a server."""

    @pytest.mark.parametrize(
        ("rows", "max_batch_size", "expected"),
        [(1, 4, [1]), (4, 4, [4]), (10, 4, [4, 4, 2]), (10, 64, [10]), (0, 4, [0]), (10, 0, [10])],
    )
    def test_by_max_batch_size(self, rows: int, max_batch_size: int, expected: list[int]) -> None:
        """A part has at most max_batch_size rows; a model without batches gets one request."""
        request = infer_request("m", {"x": np.zeros((rows, 2), np.float32)}, None, "")
        assert row_counts(split(request, Limits(max_batch_size))) == expected

    def test_messages_fill_the_limit_and_never_exceed_it(self) -> None:
        """Whatever a row's size, every message is within the limit, and holds as many rows as fit."""
        for columns in (1, 7, 100, 1000):
            inputs = {"x": np.zeros((300, columns), np.float32), "text": [["é" * (row % 50)] for row in range(300)]}
            request = infer_request("m", inputs, ["y"], "2")
            parts = split(request, Limits(10**6, 8000))
            sizes = [codec.message_from_request(part).ByteSize() for part in parts]
            assert sum(row_counts(parts)) == 300
            assert max(sizes) <= 8000
            assert min(sizes[:-1], default=8000) > 8000 - 4 * columns - 110 - 200  # one more row would not fit

    def test_one_row_is_too_large(self) -> None:
        """A single row beyond the limit is refused with its size, the limit and the server's option."""
        request = infer_request("m", {"x": [["a"], ["b" * 3 * 2**20]]}, None, "")
        with pytest.raises(
            RefusedError,
            match=r"^a request for model 'm' needs 31458\d\d bytes for row 1 alone, .* 1048576: .*--max-message-mib",
        ):
            split(request, Limits(8, 2**20))

    def test_inputs_without_common_rows(self) -> None:
        """Inputs of different lengths, or scalars, are one request."""
        for inputs in ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, {"x": np.zeros((4, 2)), "y": np.float32(1)}, {}):
            request = infer_request("m", inputs, None, "")
            assert (may_exceed(request), len(split(request, Limits(2)))) == (False, 1)

    @pytest.mark.parametrize(("text", "limit"), [("1048576", 2**20), ("", 2**31 - 1), ("-1", 2**31 - 1)])
    def test_limits_of(self, text: str, limit: int) -> None:
        """A server that reports no limit has protobuf's."""
        config = inference.ModelConfig(max_batch_size=3)
        config.parameters[MAX_MESSAGE_KEY].string_value = text
        assert limits_of(config) == Limits(3, limit)


@pytest.fixture(scope="module")
def limited_url(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that accepts messages of up to 1 MiB."""
    folder = tmp_path_factory.mktemp("limited")
    write_identity(folder / "rows" / "1" / "model.onnx", ("n", ROW))
    write_identity(folder / "wide" / "1" / "model.onnx", ("n", WIDE))
    write_identity(folder / "fixed" / "1" / "model.onnx", (3, WIDE))
    write_identity(folder / "text" / "1" / "model.onnx", ("n", 2), TensorProto.STRING)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], "top", keepdims=0),
        helper.make_node("Sub", ["x", "top"], ["y"], "difference"),
    ]
    values = ("x", TensorProto.FLOAT, ["n", 2]), ("y", TensorProto.FLOAT, ["n", 2])
    write_model(folder / "mixing" / "1" / "model.onnx", nodes, values[:1], values[1:])
    found = [helper.make_node("NonZero", ["x"], ["places"]), helper.make_node("Transpose", ["places"], ["y"])]
    write_model(folder / "found" / "1" / "model.onnx", found, values[:1], [("y", TensorProto.INT64, ["m", 2])])
    for name in ("rows", "text", "mixing", "found"):
        (folder / name / "config.pbtxt").write_text("max_batch_size: 8")
    write_images(folder / "images")
    with serve(folder, "--grpc-port", 0, "--provider", "cpu", "--max-message-mib", 1) as process:
        yield process.stdout.readline().split()[-1]


def matrix(rows: int, columns: int) -> Array:
    return np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)


def test_outputs_equal_those_of_one_batch(limited_url: str) -> None:
    """A batch over both limits arrives in several requests, and its rows return in order."""
    array = matrix(11, ROW)
    with Client(limited_url) as client:
        before = requests_served(client, "rows")
        outputs = client.infer("rows", {"x": array})
        assert requests_served(client, "rows") - before == 3  # 4 + 4 + 3
        texts = [[f"{row}", "é" * row] for row in range(21)]
        assert client.infer("text", {"x": texts})["y"].tolist() == [[text.encode() for text in row] for row in texts]
    np.testing.assert_array_equal(outputs["y"], array)


def requests_served(client: Client, model: str) -> int:
    response = client._call("ModelStatistics", inference.ModelStatisticsRequest(name=model))
    return int(response.model_stats[0].inference_stats.success.count)


@pytest.mark.anyio
async def test_the_asynchronous_client_splits_too(limited_url: str) -> None:
    """AsyncClient sends the same requests."""
    array = matrix(11, ROW)
    async with AsyncClient(limited_url) as client:
        outputs = await client.infer("rows", {"x": array})
        np.testing.assert_array_equal(outputs["y"], array)
        with pytest.raises(RefusedError, match=r"'wide' needs 10486\d\d bytes"):
            await client.infer("wide", {"x": matrix(8, WIDE)})
        with pytest.raises(RefusedError, match="layer 'top' has no row per row"):
            await client.infer("mixing", {"x": matrix(9, 2)}, ["top"])


def test_inputs_that_cannot_be_split(limited_url: str) -> None:
    """One row over the limit, and a larger batch of a model without batches, are refused before they are sent."""
    with Client(limited_url) as client:
        for model, rows in (("wide", 1), ("wide", 2), ("fixed", 3)):
            with pytest.raises(
                RefusedError, match=r"needs \d+ bytes.*, but the server accepts messages of up to 1048576"
            ):
                client.infer(model, {"x": matrix(rows, WIDE)})


def test_layers_without_rows(limited_url: str) -> None:
    """A layer's output without rows cannot be joined: a batch that must be split is refused, a smaller one is not."""
    with Client(limited_url) as client:
        assert client.infer("mixing", {"x": matrix(8, 2)}, ["top"])["top"].tolist() == 15
        with pytest.raises(RefusedError, match=r"layer 'top' has no row per row .* 9 rows cannot be split.* 8 rows"):
            client.infer("mixing", {"x": matrix(9, 2)}, ["top"])
        pixels = np.arange(20, dtype=np.uint8).reshape(5, 2, 2, 1)
        layers = client.infer("images", {"image": pixels}, ["flatten"])
        np.testing.assert_array_equal(layers["flatten"], pixels.reshape(5, 4))


def test_outputs_without_rows(limited_url: str) -> None:
    """An output that has no row per input row, although the configuration says so, is an error."""
    with (
        Client(limited_url) as client,
        pytest.raises(ServerFailedError, match=r"'y' of model 'found' .*\[15, 2\] for 8"),
    ):
        client.infer("found", {"x": matrix(9, 2)})


def test_limits_are_asked_once(limited_url: str) -> None:
    """A client asks for a model's limits once, and again after a refused request."""
    with Client(limited_url) as client:
        asked: list[str] = []
        call = client._call
        client._call = lambda name, request: asked.append(name) or call(name, request)  # type: ignore[method-assign]
        for _ in range(3):
            client.infer("images", {"image": np.zeros((2, 2, 2, 1), np.uint8)})
        with pytest.raises(RefusedError, match="expects UINT8"):
            client.infer("images", {"image": np.zeros((2, 2, 2, 1), np.float32)})
        client.infer("images", {"image": np.zeros((2, 2, 2, 1), np.uint8)})
    assert asked == ["ModelConfig", *["ModelInfer"] * 4, "ModelConfig", "ModelInfer"]


def test_more_images_than_a_batch(limited_url: str, tmp_path: Path) -> None:
    """infer_images accepts any number of files."""
    for value in range(7):
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / f"{value}.png")
    with Client(limited_url) as client:
        outputs = client.infer_images("images", sorted(tmp_path.iterdir()))
    assert outputs["logits"].tolist() == [[value] * 4 for value in range(7)]


def test_dump_of_more_images_than_a_batch(limited_url: str, tmp_path: Path) -> None:
    """`dump` saves the layers of any number of images."""
    for value in range(7):
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / f"{value}.png")
    counts: list[int] = []
    with Client(limited_url) as client:
        dump = dump_images(client, "images", sorted(tmp_path.iterdir()), ["flatten"], counts.append)
    assert counts == [3, 3, 1]
    assert dump.arrays["flatten"].tolist() == [[value] * 4 for value in range(7)]


@pytest.mark.anyio
async def test_bench_measures_whole_batches(limited_url: str) -> None:
    """A load test refuses a batch that it would have to split, and says what fits."""
    with pytest.raises(SettingsError, match=r"a batch of 8 rows exceeds the 1048576 bytes .* size of at most 4\."):
        await measure(limited_url, LoadSettings("rows", batch_size=8, seconds=0.1))


def test_triton_clients_see_the_limit(limited_url: str) -> None:
    """The limit is a parameter of the model's configuration, which an unmodified client reads as any other."""
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(limited_url) as triton:
        config = triton.get_model_config("rows").config
    assert config.parameters[MAX_MESSAGE_KEY].string_value == str(2**20)
