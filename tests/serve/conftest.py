"""Fixtures: a repository of small models built by hand, and a server process that serves it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import onnx
import pytest
from onnx import TensorProto, helper

from protos.keys import LABELS_KEY, MULTI_LABEL, PREPROCESSING_KEY, TASK_KEY
from serve.client.sync import Client
from serve.repository import layout, repository
from serve.repository.repository import ModelFiles

LABELS = ["north-west", "north-east", "south-west", "[b]"]
ROOT = Path(__file__).resolve().parents[2]
Value = tuple[str, int, list[int | str]]
Serve = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]


def write_model(path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value], outputs: Sequence[Value]) -> Path:
    """Write an ONNX file; inputs and outputs are (name, type, shape)."""
    infos = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "test", *infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def read_models(path: Path) -> list[ModelFiles]:
    """Return all models of a repository, sorted by name, or the one .onnx file."""
    return [repository.read_model(path, name) for name in layout.list_names(path)]


def write_identity(path: Path, shape: Sequence[int | str] = ("n", 3), kind: int = TensorProto.FLOAT) -> Path:
    """Write a model whose output `y` is its input `x`."""
    dims = list(shape)
    return write_model(path, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, dims)], [("y", kind, dims)])


def write_arithmetic(folder: Path) -> None:
    """Write a model of two inputs and two outputs, not in alphabetical order, with batches of up to 4."""
    values: list[int | str] = ["n", 3]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    write_model(
        folder / "1" / "model.onnx",
        nodes,
        [(name, TensorProto.FLOAT, values) for name in ("a", "b")],
        [(name, TensorProto.FLOAT, values) for name in ("sum", "difference")],
    )
    note = 'parameters { key: "note" value { string_value: "kept" } }'
    (folder / "config.pbtxt").write_text(f'backend: "onnxruntime"\nmax_batch_size: 4\n{note}\n')


def write_labelled(folder: Path) -> None:
    """Write a model whose output `y` is its input `x`, with labels for two of its three classes."""
    write_identity(folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text('max_batch_size: 4 output { name: "y" label_filename: "labels.txt" }')
    (folder / "labels.txt").write_text("cat\nzürich\n")


def write_images(folder: Path, *, multi_label: bool = False) -> None:
    """Write a model that classifies 2 x 2 grey images by their four pixels, with an export's metadata.

    With `multi_label` a label is present if its pixel is above 20.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["logits"], "flatten"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"),
    ]
    if multi_label:
        limit = helper.make_tensor("limit", TensorProto.FLOAT, [1], [20.0])
        nodes[2:] = [
            helper.make_node("Constant", [], ["limit"], value=limit),
            helper.make_node("Sub", ["logits", "limit"], ["above"]),
            helper.make_node("Sigmoid", ["above"], ["probabilities"]),
        ]
    outputs: list[Value] = [(name, TensorProto.FLOAT, ["n", 4]) for name in ("logits", "probabilities")]
    write_model(folder / "1" / "model.onnx", nodes, [("image", TensorProto.UINT8, ["n", 2, 2, 1])], outputs)
    rule = '{"channels": 1, "height": 2, "width": 2, "interpolation": "nearest", "crop_pct": 1.0}'
    (folder / "config.pbtxt").write_text(
        "max_batch_size: 3\n"
        f"parameters {{ key: '{PREPROCESSING_KEY}' value {{ string_value: '{rule}' }} }}\n"
        f"parameters {{ key: '{LABELS_KEY}' value {{ string_value: '{json.dumps(LABELS)}' }} }}\n"
        + (f"parameters {{ key: '{TASK_KEY}' value {{ string_value: '{MULTI_LABEL}' }} }}\n" if multi_label else "")
    )


def write_busy(folder: Path, config: str) -> None:
    """Write a model that computes `x` matrix products, half a millisecond each, and returns `x` as `y`.

    A request for 0 returns at once, and one for 1000 keeps the model busy. Both may share a batch. The model has one
    instance, unless `config` sets another number.
    """
    side: list[int | str] = [320, 320]
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
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["times"], keepdims=0),
        helper.make_node("Constant", [], ["shape"], value_ints=side),
        helper.make_node("ConstantOfShape", ["shape"], ["start"]),
        helper.make_node("Loop", ["times", "", "start"], ["product"], body=body),
        helper.make_node("ReduceMax", ["product"], ["zero"], keepdims=0),
        helper.make_node("Cast", ["zero"], ["nothing"], to=TensorProto.INT64),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    value = [TensorProto.INT64, ["n", 1]]
    write_model(folder / "1" / "model.onnx", nodes, [("x", *value)], [("y", *value)])
    instances = "" if "instance_group" in config else " instance_group { count: 1 }"
    (folder / "config.pbtxt").write_text(config + instances)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run the tests marked `anyio` on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model of each kind that the tests use."""
    folder = tmp_path_factory.mktemp("models")
    write_arithmetic(folder / "arithmetic")
    write_labelled(folder / "labelled")
    write_images(folder / "images")
    write_images(folder / "many", multi_label=True)
    write_identity(folder / "bare" / "1" / "model.onnx")
    write_identity(folder / "unbatched" / "1" / "model.onnx", (2, 3))
    write_identity(folder / "text" / "1" / "model.onnx", ("n", 2), TensorProto.STRING)
    write_identity(folder / "half" / "1" / "model.onnx", ("n", 2), TensorProto.FLOAT16)
    write_identity(folder / "bytes" / "1" / "model.onnx", ("n", 2), TensorProto.UINT8)
    for version in (1, 2, 10):
        write_identity(folder / "versions" / str(version) / "model.onnx", ("n", version))
    (folder / "versions" / "config.pbtxt").write_text("version_policy { specific { versions: [2, 10] } }\n")
    reshape = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    inputs: list[Value] = [("x", TensorProto.INT64, ["n"]), ("shape", TensorProto.INT64, [1])]
    write_model(folder / "picky" / "1" / "model.onnx", reshape, inputs, [("y", TensorProto.INT64, ["m"])])
    (folder / "picky" / "config.pbtxt").write_text("max_batch_size: 0\ninput { name: 'x' } input { name: 'shape' }\n")
    (folder / ".hidden" / "1").mkdir(parents=True)
    (folder / "notes").mkdir()
    (folder / "README.txt").write_text("not a model\n")
    return folder


@pytest.fixture(scope="session", params=["grpcio", "native"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Return a context manager that runs `zoonnx serve` with its arguments; the process may not be ready yet.

    Every test of a server runs on both gRPC frontends.
    """
    frontend = ("--grpc-frontend", request.param)

    @contextmanager
    def run(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "zoonnx", "serve", *map(str, arguments), *frontend]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=20)

    return run


@pytest.fixture(scope="session")
def url(serve: Serve, models: Path) -> Iterator[str]:
    """Address of a server that serves `models`."""
    with serve(models, "--grpc-port", 0, "--provider", "cpu") as process:
        line = process.stdout.readline() if process.stdout else ""
        match = re.fullmatch(r"ready: 11 models on grpc (127\.0\.0\.1:\d+)\n", line)
        assert match, line
        yield match[1]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=20) as client:
        yield client


@pytest.fixture
def channel(url: str) -> Iterator[grpc.Channel]:
    """A channel to that server, for requests that no client library would send."""
    with grpc.insecure_channel(url) as channel:
        yield channel
