"""Tests of models that are loaded, replaced and unloaded while the server runs."""

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
from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.errors import SettingsError
from serve.repository.repository import ModelFiles, Version
from serve.settings import ServerSettings
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve, write_busy, write_identity, write_model

Index = list[tuple[str, str, str]]


def write_version(models: Path, name: str, version: int) -> None:
    """Write a version that multiplies by its own number, and rename it into place as an export does."""
    temporary = models / f".{name}.{version}"
    number = helper.make_node("Constant", [], ["number"], value_float=float(version))
    nodes = [number, helper.make_node("Mul", ["x", "number"], ["y"])]
    value = [TensorProto.FLOAT, ["n", 1]]
    write_model(temporary / "model.onnx", nodes, [("x", *value)], [("y", *value)])
    (models / name).mkdir(exist_ok=True)
    temporary.rename(models / name / str(version))


def write_corrupt(models: Path, name: str, version: int) -> None:
    temporary = models / f".{name}.{version}"
    temporary.mkdir()
    (temporary / "model.onnx").write_bytes(b"no model")
    (models / name).mkdir(exist_ok=True)
    temporary.rename(models / name / str(version))


def serving_version(client: Any, name: str = "model", version: str = "") -> float:
    """Run the model on a 1, and return the output, which is the number of the version that ran."""
    tensor = tritonclient.grpc.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    return float(client.infer(name, [tensor], model_version=version).as_numpy("y").item())


def index(client: Any) -> Index:
    return [(entry.name, entry.version, entry.state) for entry in client.get_model_repository_index().models]


def status(call: Callable[..., Any], *arguments: Any) -> tuple[str, str]:
    """Return status and message of a call that fails."""
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
    """A function that starts a server of `models` and returns a tritonclient client."""
    with ExitStack() as stack:

        def run(*options: object) -> Any:
            process = stack.enter_context(serve(models, "--grpc-port", 0, "--provider", "cpu", *options))
            line = process.stdout.readline() if process.stdout else ""
            assert line.startswith("ready:"), line
            return stack.enter_context(tritonclient.grpc.InferenceServerClient(line.split()[-1]))

        yield run


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestExplicit:
    """Loading and unloading by clients."""

    def test_load_and_unload(self, start: Callable[..., Any], models: Path) -> None:
        """A model is listed, then served, then unloaded; at startup only the named models are loaded."""
        write_version(models, "other", 1)
        client = start("--model-control", "explicit", "--load-model", "other")
        assert index(client) == [("model", "", ""), ("other", "1", "READY")]
        assert status(serving_version, client)[0] == "NOT_FOUND"
        client.load_model("model")
        assert serving_version(client) == 1
        assert client.is_model_ready("model")
        client.unload_model("model")
        assert index(client) == [("model", "1", "UNAVAILABLE"), ("other", "1", "READY")]
        assert status(serving_version, client) == ("UNAVAILABLE", "model 'model' is not loaded.")
        assert not client.is_model_ready("model")
        client.load_model("model")
        assert serving_version(client) == 1

    def test_unknown_models(self, start: Callable[..., Any]) -> None:
        """Loading an unknown model is INTERNAL and unloading it OK, as on Triton; a path is not a name."""
        client = start("--model-control", "explicit")
        for name in ("nothing", "../models/model", ".", ""):
            assert status(client.load_model, name)[0] == "INTERNAL"
        client.unload_model("nothing")
        assert index(client) == [("model", "", "")]

    def test_parameters_are_rejected(self, start: Callable[..., Any]) -> None:
        """A load request that contains a configuration is UNIMPLEMENTED."""
        client = start("--model-control", "explicit")
        code, _ = status(lambda: client.load_model("model", config='{"max_batch_size": 2}'))
        assert code == "UNIMPLEMENTED"

    def test_bad_version_keeps_the_served_one(self, start: Callable[..., Any], models: Path) -> None:
        """The load fails with the reason, the old version and its counts stay, and the index has the reason."""
        client = start("--model-control", "explicit", "--load-model", "model")
        serving_version(client)
        write_corrupt(models, "model", 2)
        code, message = status(client.load_model, "model")
        assert (code, "2/model.onnx cannot be loaded by onnxruntime" in message) == ("INVALID_ARGUMENT", True)
        assert serving_version(client) == 1
        assert client.get_inference_statistics("model").model_stats[0].inference_count == 2
        assert index(client) == [("model", "1", "READY"), ("model", "2", "UNAVAILABLE")]
        assert "cannot be loaded" in client.get_model_repository_index().models[1].reason

    def test_clients_see_no_path_of_the_server(self, start: Callable[..., Any], models: Path) -> None:
        """Errors name files relative to the repository, also for a model that is a link to another folder."""
        client = start("--model-control", "explicit", "--load-model", "model")
        write_corrupt(models, "corrupt", 1)
        write_corrupt(models.parent, "away", 1)
        (models / "linked").symlink_to(models.parent / "away")
        (models / "model" / "config.pbtxt").write_text("max_batch: 1")
        write_external(models / "model" / "1", "../weights.bin")
        write_version(models, "outside", 1)
        write_external(models / "outside" / "1", "../weights.bin")
        messages = [status(client.load_model, name)[1] for name in ("linked", "model", "outside", "corrupt")]
        messages += [entry.reason for entry in client.get_model_repository_index().models]
        assert [message for message in messages if str(models.parent) in message or "/tmp" in message] == []
        assert "corrupt/1/model.onnx cannot be loaded" in messages[3]
        assert "model/config.pbtxt cannot be read" in messages[1]
        assert "linked/1/model.onnx cannot be loaded" in messages[0]

    def test_bad_config_keeps_the_served_version(self, start: Callable[..., Any], models: Path) -> None:
        """The same for a configuration; once it is corrected the model loads again."""
        client = start("--model-control", "explicit", "--load-model", "model")
        (models / "model" / "config.pbtxt").write_text("max_batch: 1")
        assert status(client.load_model, "model")[0] == "INVALID_ARGUMENT"
        assert (serving_version(client), client.is_server_ready()) == (1, True)
        (models / "model" / "config.pbtxt").write_text("max_batch_size: 7")
        client.load_model("model")
        assert client.get_model_config("model").config.max_batch_size == 7

    def test_new_version_while_the_old_is_busy(self, start: Callable[..., Any], models: Path) -> None:
        """The old version finishes its in-flight requests, while the new one already serves."""
        write_busy(models / "slow", "max_batch_size: 4")
        client = start("--model-control", "explicit", "--load-model", "slow")
        tensor = tritonclient.grpc.InferInput("x", [1, 1], "INT64")
        tensor.set_data_from_numpy(np.array([[3000]], np.int64))
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.infer, "slow", [tensor])
            time.sleep(0.1)
            write_version(models, "slow", 2)
            client.load_model("slow")
            assert serving_version(client, "slow") == 2
            assert not running.done()
            result = running.result(20)
        assert (result.as_numpy("y").item(), result.get_response().model_version) == (3000, "1")
        assert status(serving_version, client, "slow", "1")[0] == "UNAVAILABLE"
        assert status(serving_version, client, "slow", "7")[0] == "NOT_FOUND"

    def test_health_by_model(self, start: Callable[..., Any], models: Path) -> None:
        """`grpc.health.v1` has a service for each model, and a watching client sees its changes."""
        client = start("--model-control", "explicit", "--load-model", "model")
        stub = health_pb2_grpc.HealthStub(client._channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="model"), timeout=20)
        statuses = [next(watch).status]
        for change in (client.unload_model, client.load_model):
            change("model")
            statuses.append(next(watch).status)
        watch.cancel()
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert statuses == [serving, not_serving, serving]

    def test_ready_only_and_other_repositories(self, start: Callable[..., Any], models: Path) -> None:
        """The index can be limited to ready models; naming a repository is UNIMPLEMENTED."""
        write_version(models, "other", 1)
        client = start("--model-control", "explicit", "--load-model", "other")
        (method,) = (m for m in loader.service("inference.GRPCInferenceService") if m.name == "RepositoryIndex")
        call = client._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        response = call(inference.RepositoryIndexRequest(ready=True), timeout=10)
        assert [(entry.name, entry.state) for entry in response.models] == [("other", "READY")]
        with pytest.raises(Exception, match="UNIMPLEMENTED"):
            call(inference.RepositoryIndexRequest(repository_name="there"), timeout=10)


class TestPoll:
    """Polling the repository's files."""

    def test_new_and_removed_versions_and_models(self, start: Callable[..., Any], models: Path) -> None:
        """No request fails while a version is exported; new models are loaded and removed ones unloaded."""
        client = start("--model-control", "poll", "--poll-interval-s", 0.05)
        versions = {serving_version(client)}
        write_version(models, "model", 2)
        deadline = time.monotonic() + 10
        while 2 not in versions:
            versions.add(serving_version(client))
            assert time.monotonic() < deadline
        assert status(serving_version, client, "model", "1")[0] == "UNAVAILABLE"
        write_version(models, "other", 1)
        wait_until(lambda: client.is_model_ready("other"))
        shutil.rmtree(models / "model")
        wait_until(lambda: not client.is_model_ready("model"))
        assert index(client) == [("other", "1", "READY")]

    def test_bad_version(self, start: Callable[..., Any], models: Path) -> None:
        """With a corrupt version the old one serves and the server stays ready; a corrected one is loaded."""
        client = start("--model-control", "poll", "--poll-interval-s", 0.05)
        write_corrupt(models, "model", 2)
        wait_until(lambda: len(index(client)) == 2)
        assert (serving_version(client), client.is_server_ready(), client.is_model_ready("model")) == (1, True, True)
        shutil.rmtree(models / "model" / "2")
        write_version(models, "model", 2)
        wait_until(lambda: serving_version(client) == 2)

    def test_one_bad_model_does_not_stop_the_others(self, start: Callable[..., Any], models: Path) -> None:
        """Models that sort after unreadable or invalid ones are loaded, too."""
        client = start("--model-control", "poll", "--poll-interval-s", 0.05)
        for name in ("a", "b", "c"):
            write_version(models, f".{name}", 1)
        (models / ".a" / "config.pbtxt").mkdir()
        (models / ".b" / "1" / "manifest.json").mkdir()
        (models / ".c" / "config.pbtxt").write_text("input { name: 'x' dims: [-5] } max_batch_size: 1")
        for name in ("a", "b", "c"):
            (models / f".{name}").rename(models / name)
        write_version(models, "z", 1)
        wait_until(lambda: client.is_model_ready("z"))
        index = client.get_model_repository_index().models
        reasons = {entry.name: entry.reason for entry in index if entry.reason}
        assert sorted(reasons) == ["a", "b", "c"]
        assert "config.pbtxt cannot be read: Is a directory" in reasons["a"]
        assert "manifest.json cannot be read: Is a directory" in reasons["b"]
        assert "has dims [-5]" in reasons["c"]

    def test_an_unexpected_error_stops_no_other_model(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After an unexpected error in one model the next one is loaded, and the index has both states."""
        write_version(models, "next", 1)
        load = Model.load

        def failing(files: ModelFiles, version: Version, settings: ServerSettings) -> Model:
            if files.name == "model":
                raise ValueError("unexpected")
            return load(files, version, settings)

        monkeypatch.setattr(Model, "load", failing)
        settings, registry = ServerSettings(models=models, provider="cpu"), ModelRegistry()
        manager = ModelManager(registry, settings, lambda _name, _ready: None)
        manager.poll()
        bad, good = manager.index()
        assert registry.close(10)
        assert (bad.name, bad.state, good.name, good.state) == ("model", "UNAVAILABLE", "next", "READY")
        assert bad.reason == "model, version 1, failed to load: ValueError; see the server's log."

    def test_clients_cannot_load(self, start: Callable[..., Any]) -> None:
        """With poll model control, clients' loading and unloading is UNAVAILABLE."""
        client = start("--model-control", "poll")
        assert status(client.load_model, "model")[0] == "UNAVAILABLE"
        assert status(client.unload_model, "model")[0] == "UNAVAILABLE"


class TestStart:
    """Starting the server with the loadable models."""

    def test_falls_back_to_the_newest_good_version(self, start: Callable[..., Any], models: Path) -> None:
        """If the newest version is corrupt, the one before it is served, and the index has the error."""
        write_version(models, "model", 2)
        write_corrupt(models, "model", 3)
        client = start()
        assert serving_version(client) == 2
        assert index(client) == [("model", "2", "READY"), ("model", "3", "UNAVAILABLE")]
        assert status(client.load_model, "model")[0] == "UNAVAILABLE"

    def test_no_good_version(self, zoonnx: Zoonnx, models: Path) -> None:
        """If no model can be loaded, the server does not start, and reports the newest version's error."""
        shutil.rmtree(models / "model" / "1")
        write_corrupt(models, "model", 2)
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "2/model.onnx cannot be loaded" in done.stderr
        write_corrupt(models, "other", 1)
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        *log, error = done.stderr.splitlines()
        assert (done.returncode, len(log)) == (2, 2)
        assert error.startswith("zoonnx serve: none of the 2 models can be served: ")

    def test_a_bad_model_does_not_stop_the_others(self, serve: Serve, models: Path) -> None:
        """The good models are served; a bad one is not ready, and the index and the log have the reason."""
        write_corrupt(models, "corrupt", 1)
        (models / "misconfigured" / "1").mkdir(parents=True)
        (models / "misconfigured" / "config.pbtxt").write_text("max_batch: 4")
        write_identity(models / "flat" / "model.onnx")
        with serve(models, "--grpc-port", 0, "--provider", "cpu") as process:
            assert process.stdout
            assert process.stderr
            line = process.stdout.readline()
            assert line.startswith("ready: 1 of 3 models on grpc ")
            with tritonclient.grpc.InferenceServerClient(line.split()[-1]) as client:
                assert serving_version(client) == 1
                ready = [client.is_model_ready(name) for name in ("corrupt", "misconfigured", "model")]
                assert (client.is_server_ready(), ready) == (True, [False, False, True])
                reasons = {entry.name: entry.reason for entry in client.get_model_repository_index().models}
            process.terminate()
            log = process.stderr.read()
        assert reasons["corrupt"].startswith("corrupt/1/model.onnx cannot be loaded by onnxruntime")
        assert 'no field named "max_batch"' in reasons["misconfigured"]
        assert str(models) not in "".join(reasons.values())
        assert f"corrupt: {models}/corrupt/1/model.onnx cannot be loaded" in log
        assert f"flat is not served: move {models}/flat/model.onnx to {models}/flat/1/model.onnx." in log

    def test_strict(self, zoonnx: Zoonnx, models: Path) -> None:
        """With --strict, one model that cannot be loaded keeps the server from starting."""
        write_corrupt(models, "corrupt", 1)
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu", "--strict")
        assert (done.returncode, "corrupt/1/model.onnx cannot be loaded" in done.stderr.splitlines()[-1]) == (2, True)

    @pytest.mark.parametrize("control", ["poll", "explicit"])
    def test_an_empty_repository(self, start: Callable[..., Any], models: Path, control: str) -> None:
        """A server that loads models later starts with an empty repository, and is ready."""
        shutil.rmtree(models / "model")
        client = start("--model-control", control, *(("--poll-interval-s", 0.2) if control == "poll" else ()))
        assert (client.is_server_ready(), index(client)) == (True, [])
        write_version(models, "model", 1)
        if control == "explicit":
            client.load_model("model")
        wait_until(lambda: index(client) == [("model", "1", "READY")])

    def test_unknown_model_to_load(self, zoonnx: Zoonnx, models: Path) -> None:
        """Loading a model that the repository lacks is a user error."""
        done = zoonnx("serve", models, "--grpc-port", 0, "--model-control", "explicit", "--load-model", "nothing")
        assert (done.returncode, "has no model 'nothing'" in done.stderr) == (2, True)

    def test_external_weights_outside_the_folder(self, zoonnx: Zoonnx, models: Path) -> None:
        """Weights outside the version's folder are rejected, by path and through a link."""
        write_external(models / "model" / "1", "../weights.bin")
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, "External data path" in done.stderr) == (2, True)
        write_external(models / "model" / "1", "weights.bin")
        (models / "model" / "1" / "weights.bin").symlink_to("../weights.bin")
        done = zoonnx("serve", models, "--grpc-port", 0, "--provider", "cpu")
        assert (done.returncode, "External data path" in done.stderr) == (2, True)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"model_control": "sometimes"}, "one of none, explicit, poll; got 'sometimes'"),
            ({"load_models": ("model",)}, "requires explicit model control"),
            ({"poll_interval_s": 0.0}, "more than 0"),
        ],
    )
    def test_settings(self, models: Path, settings: dict[str, Any], message: str) -> None:
        """Settings that contradict each other are rejected."""
        with pytest.raises(SettingsError, match=message):
            ServerSettings(models=models, **settings)

    def test_one_file_is_no_repository(self, tmp_path: Path) -> None:
        """Model control needs a repository, not one file."""
        path = write_identity(tmp_path / "model.onnx")
        with pytest.raises(SettingsError, match="needs a model repository"):
            ServerSettings(models=path, model_control="poll")


def write_external(folder: Path, location: str) -> None:
    """Write a model that refers to weights at `location`, and move the weights beside `folder`."""
    weight = onnx.numpy_helper.from_array(np.full((300,), 3, np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 300]) for name in "xy"]
    graph = helper.make_graph(nodes, "external", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = location if entry.key == "location" else entry.value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
