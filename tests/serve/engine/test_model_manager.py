"""Models that come, change and go while the server runs."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from protos import inference, loader
from serve.engine.model import Model
from serve.engine.model_manager import IndexEntry, ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.errors import SettingsError
from serve.repository.repository import ModelFiles, Version
from serve.settings import ServerSettings
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve, write_busy, write_identity, write_model

Index = list[tuple[str, str, str]]


def write_version(models: Path, name: str, version: int) -> None:
    """Write a version whose answer is its own number, all at once as an export does."""
    beside = models / f".{name}.{version}"
    number = helper.make_node("Constant", [], ["number"], value_float=float(version))
    nodes = [number, helper.make_node("Mul", ["x", "number"], ["y"])]
    value = [TensorProto.FLOAT, ["n", 1]]
    write_model(beside / "model.onnx", nodes, [("x", *value)], [("y", *value)])
    (models / name).mkdir(exist_ok=True)
    beside.rename(models / name / str(version))


def write_corrupt(models: Path, name: str, version: int) -> None:
    beside = models / f".{name}.{version}"
    beside.mkdir()
    (beside / "model.onnx").write_bytes(b"no model")
    (models / name).mkdir(exist_ok=True)
    beside.rename(models / name / str(version))


def answer(client: Any, name: str = "model", version: str = "") -> float:
    """Ask with a 1: the answer is the number of the version that gave it."""
    tensor = tritonclient.grpc.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    return float(client.infer(name, [tensor], model_version=version).as_numpy("y").item())


def index(client: Any) -> Index:
    return [(each.name, each.version, each.state) for each in client.get_model_repository_index().models]


def status(call: Callable[..., Any], *arguments: Any) -> tuple[str, str]:
    """The status and the words of a refused call."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with version 1 of `model`."""
    folder = tmp_path / "models"
    folder.mkdir()
    write_version(folder, "model", 1)
    return folder


@pytest.fixture
def start(serve: Serve, models: Path) -> Iterator[Callable[..., Any]]:
    """Start a server of `models`; gives a client of tritonclient's."""
    with ExitStack() as stack:

        def run(*options: object) -> Any:
            process = stack.enter_context(serve(models, "--grpc-port", 0, "--provider", "cpu", *options))
            line = process.stdout.readline() if process.stdout else ""
            assert line.startswith("ready:"), line
            return stack.enter_context(tritonclient.grpc.InferenceServerClient(line.split()[-1]))

        yield run


def until(holds: Callable[[], bool]) -> None:
    """Wait for it, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestExplicit:
    """Clients load and unload."""

    def test_load_and_unload(self, start: Callable[..., Any], models: Path) -> None:
        """A model is known, then served, then gone; at the start only the named ones run."""
        write_version(models, "other", 1)
        client = start("--model-control", "explicit", "--load-model", "other")
        assert index(client) == [("model", "", ""), ("other", "1", "READY")]
        assert status(answer, client)[0] == "NOT_FOUND"
        client.load_model("model")
        assert answer(client) == 1
        assert client.is_model_ready("model")
        client.unload_model("model")
        assert index(client) == [("model", "1", "UNAVAILABLE"), ("other", "1", "READY")]
        assert status(answer, client) == ("UNAVAILABLE", "model 'model' is not loaded.")
        assert not client.is_model_ready("model")
        client.load_model("model")
        assert answer(client) == 1

    def test_unknown_models(self, start: Callable[..., Any]) -> None:
        """Triton's statuses: INTERNAL to load, OK to unload; a name that leads elsewhere is just unknown."""
        client = start("--model-control", "explicit")
        for name in ("nothing", "../models/model", ".", ""):
            assert status(client.load_model, name)[0] == "INTERNAL"
        client.unload_model("nothing")
        assert index(client) == [("model", "", "")]

    def test_parameters_are_refused(self, start: Callable[..., Any]) -> None:
        """A load that brings its own configuration is not offered, and says so."""
        client = start("--model-control", "explicit")
        found = status(lambda: client.load_model("model", config='{"max_batch_size": 2}'))
        assert found[0] == "UNIMPLEMENTED"

    def test_bad_version_leaves_the_running_one(self, start: Callable[..., Any], models: Path) -> None:
        """The load is refused with the reason, the old version and its counts stay, and the index tells why."""
        client = start("--model-control", "explicit", "--load-model", "model")
        answer(client)
        write_corrupt(models, "model", 2)
        found, words = status(client.load_model, "model")
        assert (found, "2/model.onnx cannot be loaded by onnxruntime" in words) == ("INVALID_ARGUMENT", True)
        assert answer(client) == 1
        assert client.get_inference_statistics("model").model_stats[0].inference_count == 2
        assert index(client) == [("model", "1", "READY"), ("model", "2", "UNAVAILABLE")]
        assert "cannot be loaded" in client.get_model_repository_index().models[1].reason

    def test_clients_see_no_path_of_the_server(self, start: Callable[..., Any], models: Path) -> None:
        """What cannot be loaded is named as seen from the repository, also where it is a link to elsewhere."""
        client = start("--model-control", "explicit", "--load-model", "model")
        write_corrupt(models, "xtrunc", 1)
        write_corrupt(models.parent, "away", 1)
        (models / "linked").symlink_to(models.parent / "away")
        (models / "model" / "config.pbtxt").write_text("max_batch: 1")
        write_outside(models / "model" / "1", "../weights.bin")
        write_version(models, "stray", 1)
        write_outside(models / "stray" / "1", "../weights.bin")
        said = [status(client.load_model, name)[1] for name in ("linked", "model", "stray", "xtrunc")]
        said += [each.reason for each in client.get_model_repository_index().models]
        assert [words for words in said if str(models.parent) in words or "/tmp" in words] == []
        assert "xtrunc/1/model.onnx cannot be loaded" in said[3]
        assert "model/config.pbtxt cannot be read" in said[1]
        assert "linked/1/model.onnx cannot be loaded" in said[0]

    def test_bad_config_leaves_the_running_version(self, start: Callable[..., Any], models: Path) -> None:
        """The same for a configuration; once it is mended the model loads again."""
        client = start("--model-control", "explicit", "--load-model", "model")
        (models / "model" / "config.pbtxt").write_text("max_batch: 1")
        assert status(client.load_model, "model")[0] == "INVALID_ARGUMENT"
        assert (answer(client), client.is_server_ready()) == (1, True)
        (models / "model" / "config.pbtxt").write_text("max_batch_size: 7")
        client.load_model("model")
        assert client.get_model_config("model").config.max_batch_size == 7

    def test_new_version_while_the_old_is_busy(self, start: Callable[..., Any], models: Path) -> None:
        """What the old version has begun it finishes, while the new one answers already."""
        write_busy(models / "slow", "max_batch_size: 4")
        client = start("--model-control", "explicit", "--load-model", "slow")
        tensor = tritonclient.grpc.InferInput("x", [1, 1], "INT64")
        tensor.set_data_from_numpy(np.array([[3000]], np.int64))
        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(client.infer, "slow", [tensor])
            time.sleep(0.1)
            write_version(models, "slow", 2)
            client.load_model("slow")
            assert answer(client, "slow") == 2
            assert not begun.done()
            found = begun.result(20)
        assert (found.as_numpy("y").item(), found.get_response().model_version) == (3000, "1")
        assert status(answer, client, "slow", "1")[0] == "UNAVAILABLE"
        assert status(answer, client, "slow", "7")[0] == "NOT_FOUND"

    def test_health_by_model(self, start: Callable[..., Any], models: Path) -> None:
        """`grpc.health.v1` has a service for each model; who watches it sees it come and go."""
        client = start("--model-control", "explicit", "--load-model", "model")
        stub = health_pb2_grpc.HealthStub(client._channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="model"), timeout=20)
        seen = [next(watch).status]
        for change in (client.unload_model, client.load_model):
            change("model")
            seen.append(next(watch).status)
        watch.cancel()
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert seen == [serving, not_serving, serving]

    def test_ready_only_and_other_repositories(self, start: Callable[..., Any], models: Path) -> None:
        """The index can be cut to what is ready; naming a repository is not offered."""
        write_version(models, "other", 1)
        client = start("--model-control", "explicit", "--load-model", "other")
        (method,) = (m for m in loader.service("inference.GRPCInferenceService") if m.name == "RepositoryIndex")
        call = client._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        found = call(inference.RepositoryIndexRequest(ready=True), timeout=10)
        assert [(each.name, each.state) for each in found.models] == [("other", "READY")]
        with pytest.raises(Exception, match="UNIMPLEMENTED"):
            call(inference.RepositoryIndexRequest(repository_name="there"), timeout=10)


class TestPoll:
    """The server follows the files."""

    def test_versions_and_models_come_and_go(self, start: Callable[..., Any], models: Path) -> None:
        """No request fails while a version is exported; a new model appears and a removed one goes."""
        client = start("--model-control", "poll", "--poll-interval-s", 0.05)
        seen = {answer(client)}
        write_version(models, "model", 2)
        deadline = time.monotonic() + 10
        while 2 not in seen:
            seen.add(answer(client))
            assert time.monotonic() < deadline
        assert status(answer, client, "model", "1")[0] == "UNAVAILABLE"
        write_version(models, "other", 1)
        until(lambda: client.is_model_ready("other"))
        shutil.rmtree(models / "model")
        until(lambda: not client.is_model_ready("model"))
        assert index(client) == [("other", "1", "READY")]

    def test_bad_version(self, start: Callable[..., Any], models: Path) -> None:
        """With a corrupt version the old serves, the server stays ready; a mended one is loaded."""
        client = start("--model-control", "poll", "--poll-interval-s", 0.05)
        write_corrupt(models, "model", 2)
        until(lambda: len(index(client)) == 2)
        assert (answer(client), client.is_server_ready(), client.is_model_ready("model")) == (1, True, True)
        shutil.rmtree(models / "model" / "2")
        write_version(models, "model", 2)
        until(lambda: answer(client) == 2)

    def test_one_bad_model_does_not_stop_the_others(self, start: Callable[..., Any], models: Path) -> None:
        """Models behind, by the alphabet, those of which nothing can be read or made are loaded all the same."""
        client = start("--model-control", "poll", "--poll-interval-s", 0.05)
        for name in ("a", "b", "c"):
            write_version(models, f".{name}", 1)
        (models / ".a" / "config.pbtxt").mkdir()
        (models / ".b" / "1" / "manifest.json").mkdir()
        (models / ".c" / "config.pbtxt").write_text("input { name: 'x' dims: [-5] } max_batch_size: 1")
        for name in ("a", "b", "c"):
            (models / f".{name}").rename(models / name)
        write_version(models, "z", 1)
        until(lambda: client.is_model_ready("z"))
        reasons = {each.name: each.reason for each in client.get_model_repository_index().models if each.reason}
        assert sorted(reasons) == ["a", "b", "c"]
        assert "config.pbtxt cannot be read: Is a directory" in reasons["a"]
        assert "manifest.json cannot be read: Is a directory" in reasons["b"]
        assert "says dims [-5]" in reasons["c"]

    def test_an_unforeseen_failure_is_that_model_s_alone(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever ends the load of one model, the next is loaded, and the index says so."""
        write_version(models, "next", 1)
        load = Model.load

        def failing(files: ModelFiles, version: Version, settings: ServerSettings) -> Model:
            if files.name == "model":
                raise ValueError("nobody foresaw it")
            return load(files, version, settings)

        async def main() -> list[IndexEntry]:
            control = ModelManager(core := ModelRegistry(), ServerSettings(models=models, provider="cpu"), changed)
            await control.poll()
            try:
                return await control.index()
            finally:
                await core.close()

        async def changed(_name: str, _ready: bool) -> None:
            pass

        monkeypatch.setattr(Model, "load", failing)
        bad, good = asyncio.run(main())
        assert (bad.name, bad.state, good.name, good.state) == ("model", "UNAVAILABLE", "next", "READY")
        assert bad.reason == "model, version 1, failed to load: ValueError; the server's log says where."

    def test_clients_cannot_load(self, start: Callable[..., Any]) -> None:
        """In poll mode, as in none, loading is UNAVAILABLE."""
        client = start("--model-control", "poll")
        assert status(client.load_model, "model")[0] == "UNAVAILABLE"
        assert status(client.unload_model, "model")[0] == "UNAVAILABLE"


class TestStart:
    """A start serves what can be served."""

    def test_falls_back_to_the_newest_good_version(self, start: Callable[..., Any], models: Path) -> None:
        """With the newest version corrupt, the one before it serves, and the index names the error."""
        write_version(models, "model", 2)
        write_corrupt(models, "model", 3)
        client = start()
        assert answer(client) == 2
        assert index(client) == [("model", "2", "READY"), ("model", "3", "UNAVAILABLE")]
        assert status(client.load_model, "model")[0] == "UNAVAILABLE"

    def test_no_good_version(self, zoonnx: Zoonnx, models: Path) -> None:
        """A model of which no version loads keeps the server from starting; the newest version's error is told."""
        shutil.rmtree(models / "model" / "1")
        write_corrupt(models, "model", 2)
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        assert done.returncode == 2
        assert "2/model.onnx cannot be loaded" in done.stderr

    def test_unknown_model_to_load(self, zoonnx: Zoonnx, models: Path) -> None:
        """A name that is not there is a mistake."""
        done = zoonnx("serve", models, "--grpc-port", 0, "--model-control", "explicit", "--load-model", "nothing")
        assert (done.returncode, "has no model 'nothing'" in done.stderr) == (2, True)

    def test_outside_weights_stay_inside(self, zoonnx: Zoonnx, models: Path) -> None:
        """Weights that lie outside the version's folder are refused, by name and through a link."""
        write_outside(models / "model" / "1", "../weights.bin")
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, "External data path" in done.stderr) == (2, True)
        write_outside(models / "model" / "1", "weights.bin")
        (models / "model" / "1" / "weights.bin").symlink_to("../weights.bin")
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, "External data path" in done.stderr) == (2, True)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"model_control": "sometimes"}, "one of none, explicit, poll; got 'sometimes'"),
            ({"load_models": ("model",)}, "only for explicit model control"),
            ({"poll_interval_s": 0.0}, "more than 0"),
        ],
    )
    def test_settings(self, models: Path, settings: dict[str, Any], words: str) -> None:
        """Settings that contradict each other are refused."""
        with pytest.raises(SettingsError, match=words):
            ServerSettings(models=models, **settings)

    def test_one_file_is_no_repository(self, tmp_path: Path) -> None:
        """A bare file cannot be controlled."""
        path = write_identity(tmp_path / "model.onnx")
        with pytest.raises(SettingsError, match="give a repository"):
            ServerSettings(models=path, model_control="poll")


def write_outside(folder: Path, location: str) -> None:
    """Write a model whose weights are said to be at `location`, and put them beside `folder`."""
    weight = onnx.numpy_helper.from_array(np.full((300,), 3, np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 300]) for name in "xy"]
    graph = helper.make_graph(nodes, "outside", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = location if entry.key == "location" else entry.value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
