"""`zoonnx serve` and `zoonnx infer` on the command line."""

import csv
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from serve.client.sync import Client
from serve.errors import SettingsError
from serve.settings import ServerSettings
from tests.conftest import Zoonnx
from tests.serve.conftest import LABELS, Serve, write_model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five 2 x 2 images; the position of the bright pixel is the class."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, bright in enumerate((0, 1, 2, 3, 3)):
        pixels = np.full(4, 10, np.uint8)
        pixels[bright] = 30
        Image.fromarray(pixels.reshape(2, 2)).save(folder / f"{number}.png")
    return folder


class TestInfer:
    """Classifying images."""

    def test_json(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """--json prints all outputs, in the order of the files, for more than one batch."""
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert (report["model"], report["version"], report["images"]) == ("images", "1", 5)
        assert report["images_per_s"] == pytest.approx(5 / report["seconds"])
        assert [result["index"] for result in report["results"]] == [0, 1, 2, 3, 3]
        assert [result["label"] for result in report["results"]] == [*LABELS, LABELS[3]]
        first = report["results"][0]
        assert (first["file"], first["logits"]) == (str(images / "0.png"), [30, 10, 10, 10])
        assert first["probability"] == max(first["probabilities"])
        assert set(first) == {"file", "label", "index", "probability", "logits", "probabilities"}

    def test_csv(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """--csv prints a line per image, in the order of the files; names with commas are quoted."""
        (images / "4.png").rename(images / "4,b.png")
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--csv")
        assert (done.returncode, done.stderr) == (0, "")
        head, *rows = csv.reader(done.stdout.splitlines())
        assert head == ["file", "label", "index", "probability"]
        assert [row[0] for row in rows] == [
            str(images / name) for name in ("0.png", "1.png", "2.png", "3.png", "4,b.png")
        ]
        assert [row[1:3] for row in rows] == [[*cells] for cells in zip([*LABELS, LABELS[3]], "01233", strict=True)]
        assert all(float(row[3]) > 0.9 for row in rows)

    def test_csv_multi_label(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """The CSV of a multi-label model has a column with all predicted labels."""
        args = ("infer", images / "3.png", "--model", "many", "--url", url)
        (row,) = csv.DictReader(zoonnx(*args, "--csv").stdout.splitlines())
        (result,) = json.loads(zoonnx(*args, "--json").stdout)["results"]
        assert row["labels"].split(";") == result["labels"]

    @pytest.mark.parametrize("size", [1, 2])
    def test_batch_size(self, zoonnx: Zoonnx, url: str, images: Path, size: int) -> None:
        """The batch size does not change the predictions."""
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--json", "--batch-size", size)
        assert [result["index"] for result in json.loads(done.stdout)["results"]] == [0, 1, 2, 3, 3]

    def test_table(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """The table has the file, the class and the runner-up; labels are not parsed as markup."""
        done = zoonnx("infer", images / "3.png", "--model", "images", "--url", url)
        assert done.returncode == 0
        assert "[b]" in done.stdout
        assert "100.0%" in done.stdout
        assert "north-west 0.0%" in done.stdout

    @pytest.mark.parametrize("columns", [80, 100, 120])
    @pytest.mark.parametrize("model", ["images", "many"])
    def test_table_width(self, zoonnx: Zoonnx, url: str, images: Path, model: str, columns: int) -> None:
        """At any width a line starts with a file's full name, and no name or number is cut or wrapped."""
        done = zoonnx("infer", "images", "--model", model, "--url", url, cwd=images.parent, COLUMNS=str(columns))
        assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
        head, *rows = done.stdout.splitlines()
        assert head.split() == [
            "file",
            *(["labels", "best"] if model == "many" else ["class"]),
            "probability",
            "runner-up",
        ]
        assert [row.split()[0] for row in rows] == [f"images/{number}.png" for number in range(5)]
        assert all(row.rstrip().endswith("%") for row in rows)
        assert max(map(len, (head, *rows))) <= columns

    @pytest.mark.parametrize("columns", [80, 100, 120])
    @pytest.mark.parametrize("model", ["images", "many"])
    def test_table_with_a_long_name(self, zoonnx: Zoonnx, url: str, images: Path, model: str, columns: int) -> None:
        """If the table does not fit, each file has separate lines, and its name is printed in full."""
        folder = images.rename(images.with_name("i" * 110))
        done = zoonnx("infer", folder / "3.png", "--model", model, "--url", url, COLUMNS=str(columns))
        labels = ["  labels: [b]", "  best: [b]"] if model == "many" else ["  class: [b]"]
        expected = [str(folder / "3.png"), *labels, "  probability: 100.0%", "  runner-up: north-west 0.0%"]
        assert done.stdout.splitlines() == expected

    def test_multi_label(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """All predicted labels of a multi-label model are listed."""
        Image.fromarray(np.array([[30, 10], [25, 10]], np.uint8)).save(images / "0.png")
        arguments = ("infer", images / "0.png", "--model", "many", "--url", url)
        (first,) = json.loads(zoonnx(*arguments, "--json").stdout)["results"]
        assert first["labels"] == [LABELS[0], LABELS[2]]
        assert [round(probability, 2) for probability in first["probabilities"]] == [1.0, 0.0, 0.99, 0.0]
        assert "north-west, south-west" in zoonnx(*arguments).stdout

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("nothing", (), "there is no model 'nothing'"),
            ("arithmetic", (), "lacks the parameter zoonnx.preprocessing"),
            ("images", ("--batch-size", 4), "accepts batches of 1 to 3; got --batch-size 4"),
            ("images", ("--batch-size", 0), "got --batch-size 0"),
            ("images", ("--json", "--csv"), "--json and --csv exclude each other"),
        ],
    )
    def test_mistakes(
        self, zoonnx: Zoonnx, url: str, images: Path, model: str, options: tuple[object, ...], message: str
    ) -> None:
        """A user error is reported in one line, with exit status 2."""
        done = zoonnx("infer", images, "--model", model, "--url", url, *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr

    def test_unreadable_image(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """A file that is not an image is named in the error, and nothing is printed."""
        (images / "4.png").write_text("not an image")
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--json")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{images / '4.png'} cannot be read as an image" in done.stderr

    def test_no_server(self, zoonnx: Zoonnx, images: Path) -> None:
        """Without a server the command fails with exit status 1 and names the address."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"127.0.0.1:{taken.getsockname()[1]}"
            done = zoonnx("infer", images, "--model", "images", "--url", url)
        assert done.returncode == 1
        assert f"cannot reach a server at {url}" in done.stderr


class TestServe:
    """Starting and stopping a server."""

    @pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
    def test_stops_cleanly(self, serve: Serve, models: Path, stop_signal: signal.Signals) -> None:
        """stdout has only the ready line; a signal stops the server with exit status 0, and the log records it."""
        with serve(models / "bare" / "1" / "model.onnx", "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            assert process.stdout.readline().startswith("ready: 1 model on grpc 127.0.0.1:")
            process.send_signal(stop_signal)
            assert (process.wait(10), process.stdout.read()) == (0, "")
            assert process.stderr
            assert process.stderr.read().splitlines()[-1].endswith("INFO    stopped")

    def test_finishes_requests_in_flight(self, serve: Serve, tmp_path: Path) -> None:
        """A request that is running when the signal arrives is completed before the server exits."""
        with serve(write_slow(tmp_path / "slow.onnx"), "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            with Client(url, timeout_s=20) as client, ThreadPoolExecutor() as pool:
                client.infer("slow", {"count": np.array([1])})
                future = pool.submit(client.infer, "slow", {"count": np.array([800])})
                time.sleep(0.2)
                process.send_signal(signal.SIGTERM)
                assert not future.done()
                assert future.result(20)["y"].shape == (512, 512)
            assert process.wait(10) == 0

    def test_grace_period(self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request that exceeds the grace period is abandoned: the server exits, and logs a warning."""
        with serve(write_slow(tmp_path / "slow.onnx"), "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            assert process.stderr
            url = process.stdout.readline().split()[-1]
            with Client(url, timeout_s=60) as client, ThreadPoolExecutor() as pool:
                future = pool.submit(client.infer, "slow", {"count": np.array([10**6])})
                time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                assert future.exception(20) is not None
            assert "is still running for abandoned requests" in process.stderr.read()

    def test_port_in_use(self, zoonnx: Zoonnx, url: str, models: Path) -> None:
        """A port that is in use is reported at once, not shared silently with the other server."""
        port = url.rpartition(":")[2]
        done = zoonnx("serve", models / "bare" / "1" / "model.onnx", "--grpc-port", port)
        assert (done.returncode, done.stdout) == (2, "")
        expected = f"port {port} on 127.0.0.1 is in use: stop the process that listens there, or choose another port."
        assert done.stderr == f"zoonnx serve: {expected}\n"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--host", "192.0.2.1", "--grpc-port", 0), "cannot listen on 192.0.2.1:0"),
            (("--grpc-port", 70000), "got 70000"),
            (("--provider", "gpu"), "one of auto, cuda, cpu; got 'gpu'"),
            (("--max-message-mib", 0), "(--max-message-mib 1 to 2047); got 0 bytes"),
            (("--max-message-mib", 2048), "(--max-message-mib 1 to 2047); got 2147483648 bytes"),
        ],
    )
    def test_bad_options(self, zoonnx: Zoonnx, models: Path, options: tuple[object, ...], message: str) -> None:
        """An invalid option is reported in one line, with exit status 2."""
        done = zoonnx("serve", models / "bare" / "1" / "model.onnx", *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr

    def test_nothing_to_serve(self, zoonnx: Zoonnx, tmp_path: Path) -> None:
        """An empty folder and a corrupt model are rejected with exit status 2."""
        done = zoonnx("serve", tmp_path, "--grpc-port", 0)
        assert (done.returncode, "holds no model" in done.stderr) == (2, True)
        (tmp_path / "m.onnx").write_bytes(os.urandom(100))
        done = zoonnx("serve", tmp_path / "m.onnx", "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "m.onnx cannot be loaded by onnxruntime" in done.stderr


def write_slow(path: Path) -> Path:
    """Write a model that multiplies two matrices `count` times, 1 to 2 ms each."""
    side = [512, 512]
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("MatMul", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, side),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, side),
        ],
    )
    zeros = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("Squeeze", ["count"], ["times"]),
        helper.make_node("Constant", [], ["shape"], value_ints=side),
        helper.make_node("ConstantOfShape", ["shape"], ["start"], value=zeros),
        helper.make_node("Loop", ["times", "", "start"], ["y"], body=body),
    ]
    return write_model(path, nodes, [("count", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, [*side])])


@pytest.mark.parametrize(
    ("setting", "value"), [("host", ""), ("grpc_port", -1), ("max_message_bytes", 0), ("stop_grace_s", -1.0)]
)
def test_settings_are_validated(tmp_path: Path, setting: str, value: object) -> None:
    """A setting out of its range is rejected when the settings are created."""
    with pytest.raises(SettingsError):
        ServerSettings(models=tmp_path, **{setting: value})  # type: ignore[arg-type]
