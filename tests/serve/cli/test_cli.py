"""`zoonnx serve` and `zoonnx infer` as a user meets them."""

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
    """Five 2 x 2 images; in each, one pixel is bright, and that is its class."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, bright in enumerate((0, 1, 2, 3, 3)):
        pixels = np.full(4, 10, np.uint8)
        pixels[bright] = 30
        Image.fromarray(pixels.reshape(2, 2)).save(folder / f"{number}.png")
    return folder


class TestInfer:
    """Asking about images."""

    def test_json(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """--json says everything, in the order of the files, over more than one batch."""
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert (report["model"], report["version"], report["images"]) == ("images", "1", 5)
        assert report["images_per_s"] == pytest.approx(5 / report["seconds"])
        assert [each["index"] for each in report["results"]] == [0, 1, 2, 3, 3]
        assert [each["label"] for each in report["results"]] == [*LABELS, LABELS[3]]
        first = report["results"][0]
        assert (first["file"], first["logits"]) == (str(images / "0.png"), [30, 10, 10, 10])
        assert first["probability"] == max(first["probabilities"])
        assert set(first) == {"file", "label", "index", "probability", "logits", "probabilities"}

    def test_csv(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """--csv gives a line an image, in the order of the files; names with commas are quoted."""
        (images / "4.png").rename(images / "4,b.png")
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--csv")
        assert (done.returncode, done.stderr) == (0, "")
        head, *rows = csv.reader(done.stdout.splitlines())
        assert head == ["file", "label", "index", "probability"]
        assert [row[0] for row in rows] == [
            str(images / name) for name in ("0.png", "1.png", "2.png", "3.png", "4,b.png")
        ]
        assert [row[1:3] for row in rows] == [[*each] for each in zip([*LABELS, LABELS[3]], "01233", strict=True)]
        assert all(float(row[3]) > 0.9 for row in rows)

    def test_csv_of_several_labels(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """A model that says several labels of an image has a column for all of them."""
        args = ("infer", images / "3.png", "--model", "many", "--url", url)
        (row,) = csv.DictReader(zoonnx(*args, "--csv").stdout.splitlines())
        (answer,) = json.loads(zoonnx(*args, "--json").stdout)["results"]
        assert row["labels"].split(";") == answer["labels"]

    @pytest.mark.parametrize("size", [1, 2])
    def test_batch_size(self, zoonnx: Zoonnx, url: str, images: Path, size: int) -> None:
        """The batch size changes nothing in the answers."""
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--json", "--batch-size", size)
        assert [each["index"] for each in json.loads(done.stdout)["results"]] == [0, 1, 2, 3, 3]

    def test_table(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """Without --json a table names each file, its class and the runner-up; a label is no markup."""
        done = zoonnx("infer", images / "3.png", "--model", "images", "--url", url)
        assert done.returncode == 0
        assert "[b]" in done.stdout
        assert "100.0%" in done.stdout
        assert "north-west 0.0%" in done.stdout

    def test_labels(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """Where an image may have several labels, those that it has are listed."""
        Image.fromarray(np.array([[30, 10], [25, 10]], np.uint8)).save(images / "0.png")
        asked = ("infer", images / "0.png", "--model", "many", "--url", url)
        (first,) = json.loads(zoonnx(*asked, "--json").stdout)["results"]
        assert first["labels"] == [LABELS[0], LABELS[2]]
        assert [round(each, 2) for each in first["probabilities"]] == [1.0, 0.0, 0.99, 0.0]
        assert "north-west, south-west" in zoonnx(*asked).stdout

    @pytest.mark.parametrize(
        ("model", "options", "words"),
        [
            ("nothing", (), "there is no model 'nothing'"),
            ("arithmetic", (), "lacks the parameter zoonnx.preprocessing"),
            ("images", ("--batch-size", 4), "takes batches of 1 to 3; got --batch-size 4"),
            ("images", ("--batch-size", 0), "got --batch-size 0"),
            ("images", ("--json", "--csv"), "give --json or --csv, not both"),
        ],
    )
    def test_mistakes(
        self, zoonnx: Zoonnx, url: str, images: Path, model: str, options: tuple[object, ...], words: str
    ) -> None:
        """A mistake is one sentence and exit status 2."""
        done = zoonnx("infer", images, "--model", model, "--url", url, *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert words in done.stderr

    def test_spoiled_image(self, zoonnx: Zoonnx, url: str, images: Path) -> None:
        """One file that is no image is named, and nothing is answered."""
        (images / "4.png").write_text("not an image")
        done = zoonnx("infer", images, "--model", "images", "--url", url, "--json")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{images / '4.png'} cannot be read as an image" in done.stderr

    def test_no_server(self, zoonnx: Zoonnx, images: Path) -> None:
        """Without a server the work fails, with exit status 1 and where it was looked for."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"127.0.0.1:{taken.getsockname()[1]}"
            done = zoonnx("infer", images, "--model", "images", "--url", url)
        assert done.returncode == 1
        assert f"no server answers at {url}" in done.stderr


class TestServe:
    """Starting and stopping."""

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_stops_cleanly(self, serve: Serve, models: Path, how: signal.Signals) -> None:
        """One line when ready, nothing else on stdout; a signal ends it with exit status 0, and the log says so."""
        with serve(models / "bare" / "1" / "model.onnx", "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            assert process.stdout.readline().startswith("ready: 1 model on grpc 127.0.0.1:")
            process.send_signal(how)
            assert (process.wait(10), process.stdout.read()) == (0, "")
            assert process.stderr
            assert process.stderr.read().splitlines()[-1].endswith("INFO    stopped")

    def test_answers_what_it_has_begun(self, serve: Serve, tmp_path: Path) -> None:
        """A request that is being computed when the signal comes is answered; the server then ends."""
        with serve(write_slow(tmp_path / "slow.onnx"), "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            with Client(url, timeout_s=20) as client, ThreadPoolExecutor() as pool:
                client.infer("slow", {"count": np.array([1])})
                answer = pool.submit(client.infer, "slow", {"count": np.array([800])})
                time.sleep(0.2)
                process.send_signal(signal.SIGTERM)
                assert not answer.done()
                assert answer.result(20)["y"].shape == (512, 512)
            assert process.wait(10) == 0

    def test_ends_within_its_grace(self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What takes longer than the grace is given up: the server ends all the same, and says so."""
        with serve(write_slow(tmp_path / "slow.onnx"), "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            assert process.stderr
            url = process.stdout.readline().split()[-1]
            with Client(url, timeout_s=60) as client, ThreadPoolExecutor() as pool:
                answer = pool.submit(client.infer, "slow", {"count": np.array([10**6])})
                time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                assert answer.exception(20) is not None
            assert "still computes for requests that were given up" in process.stderr.read()

    def test_port_in_use(self, zoonnx: Zoonnx, url: str, models: Path) -> None:
        """A second server does not share a port silently; it says so at once."""
        port = url.rpartition(":")[2]
        done = zoonnx("serve", models / "bare" / "1" / "model.onnx", "--grpc-port", port)
        assert (done.returncode, done.stdout) == (2, "")
        expected = f"zoonnx serve: port {port} on 127.0.0.1 is in use: stop what listens there, or give another."
        assert done.stderr == f"{expected}\n"

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--host", "192.0.2.1", "--grpc-port", 0), "cannot listen on 192.0.2.1:0"),
            (("--grpc-port", 70000), "got 70000"),
            (("--provider", "gpu"), "one of auto, cuda, cpu; got 'gpu'"),
        ],
    )
    def test_bad_options(self, zoonnx: Zoonnx, models: Path, options: tuple[object, ...], words: str) -> None:
        """An option out of its range is one sentence and exit status 2."""
        done = zoonnx("serve", models / "bare" / "1" / "model.onnx", *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert words in done.stderr

    def test_nothing_to_serve(self, zoonnx: Zoonnx, tmp_path: Path) -> None:
        """An empty folder and a corrupt model are refused, with exit status 2."""
        done = zoonnx("serve", tmp_path, "--grpc-port", 0)
        assert (done.returncode, "holds no model" in done.stderr) == (2, True)
        (tmp_path / "m.onnx").write_bytes(os.urandom(100))
        done = zoonnx("serve", tmp_path / "m.onnx", "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "m.onnx cannot be loaded by onnxruntime" in done.stderr


def write_slow(path: Path) -> Path:
    """Write a model that multiplies two matrices `count` times: a millisecond or two each."""
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
def test_settings_are_checked(tmp_path: Path, setting: str, value: object) -> None:
    """A setting out of its range is refused when it is made."""
    with pytest.raises(SettingsError):
        ServerSettings(models=tmp_path, **{setting: value})  # type: ignore[arg-type]
