"""Tests of layers as outputs: a request for a module's path returns the output of PyTorch's hook."""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import tritonclient.grpc
import tritonclient.grpc.aio
from onnx import TensorProto, helper
from torch import nn
from tritonclient.utils import InferenceServerException

from export import ExportSettings, export_model
from protos.keys import LAYERS_KEY, NAME_SCOPES_KEY
from serve.client.sync import Client
from serve.engine.session import Session
from serve.engine.tap_sessions import TapSessions, add_outputs
from serve.errors import BadModelError, NoSuchLayerError
from serve.repository.layer_index import read_layers
from tests.export.conftest import randomize_batch_norms
from tests.serve.conftest import Serve, write_model
from zoo import LoadedNetwork, load_network

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def resnet18() -> LoadedNetwork:
    """A backbone with random weights, in which no residual branch is zero."""
    loaded = load_network("resnet18")
    randomize_batch_norms(loaded.network)
    return loaded


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, resnet18: LoadedNetwork) -> Path:
    """A repository of our export of it, torch's export of a small network, and a model built by hand."""
    models = tmp_path_factory.mktemp("tapped") / "models"
    export_model(resnet18, ExportSettings(to=models, name="resnet18"))
    write_foreign(models / "foreign" / "1" / "model.onnx")
    nodes = [helper.make_node("Abs", ["x"], ["a"], "first"), helper.make_node("Neg", ["a"], ["y"], "second")]
    value = [TensorProto.FLOAT, ["n", 3]]
    write_model(models / "nodes" / "1" / "model.onnx", nodes, [("x", *value)], [("y", *value)])
    return models


def write_foreign(path: Path) -> None:
    """Write a model by torch.onnx alone: with module paths on its nodes, but without our layer map."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))).eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(network, (torch.zeros(2, 3),), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    assert program is not None
    path.parent.mkdir(parents=True)
    onnx.save(program.model_proto, path)


@pytest.fixture(scope="module")
def url(serve: Serve, repository: Path) -> Iterator[str]:
    """Address of a server of these three models."""
    with serve(repository, "--grpc-port", 0, "--provider", "cpu") as process:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("ready: 3 models"), line
        yield line.split()[-1]


@pytest.fixture(scope="module")
def triton(url: str) -> Iterator[Any]:
    """A tritonclient client of that server."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        yield client


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


def infer(client: Any, model: str, array: Array, *outputs: str) -> dict[str, Array]:
    """Return the named outputs by tritonclient."""
    name, kind = ("image", "UINT8") if array.dtype == np.uint8 else ("x", "FP32")
    tensor = tritonclient.grpc.InferInput(name, array.shape, kind)
    tensor.set_data_from_numpy(array)
    requested = [tritonclient.grpc.InferRequestedOutput(output) for output in outputs]
    result = client.infer(model, [tensor], outputs=requested)
    return {output: result.as_numpy(output) for output in outputs}


def hooked(loaded: LoadedNetwork, array: Array) -> dict[str, Array]:
    """Return the output of every module in PyTorch, by forward hooks, and the network's logits."""
    outputs: dict[str, Array] = {}

    def hook(path: str) -> Any:
        return lambda _module, _args, output: outputs.__setitem__(path, output.clone().numpy())

    handles = [module.register_forward_hook(hook(path)) for path, module in loaded.network.named_modules()]
    with torch.no_grad():
        loaded.network(loaded.preprocessing.normalise(torch.from_numpy(array)))
    for handle in handles:
        handle.remove()
    return {**outputs, "logits": outputs[""]}


def assert_close(actual: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, array in actual.items():
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5 * scale, err_msg=name)


class TestResnet18:
    """Layers of an exported backbone."""

    def test_layers_beside_the_logits(self, triton: Any, resnet18: LoadedNetwork) -> None:
        """`layer1.0.bn1` and `layer4` are returned beside the logits and equal PyTorch's hooks."""
        x = images(2)
        actual = infer(triton, "resnet18", x, "logits", "layer1.0.bn1", "layer4")
        assert [array.shape for array in actual.values()] == [(2, 1000), (2, 64, 56, 56), (2, 512, 7, 7)]
        assert_close(actual, hooked(resnet18, x))

    def test_every_layer_by_glob(self, url: str, resnet18: LoadedNetwork) -> None:
        """Our client's `*` returns every layer of the file in call order, equal to PyTorch's hooks."""
        x = images(1, seed=4)
        with Client(url) as client:
            actual = client.activations("resnet18", {"image": x}, ["*"])
        expected = hooked(resnet18, x)
        assert len(actual) == 73
        assert list(actual)[:3] == ["bn1", "act1", "maxpool"]
        assert_close(actual, expected)

    def test_a_folded_layer_names_its_successor(self, triton: Any) -> None:
        """The error for a convolution that was folded into its BatchNorm names the BatchNorm."""
        with pytest.raises(InferenceServerException, match=r"'layer1.0.conv1' .* folded it into 'layer1.0.bn1'"):
            infer(triton, "resnet18", images(1), "layer1.0.conv1")

    def test_an_unknown_layer_suggests_a_similar_one(self, triton: Any) -> None:
        """A mistyped path is INVALID_ARGUMENT, and the error suggests a similar layer."""
        with pytest.raises(
            InferenceServerException, match=r"no output or layer 'layer5'; did you mean 'layer"
        ) as caught:
            infer(triton, "resnet18", images(1), "layer5")
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"

    def test_plain_outputs_do_not_change(self, triton: Any) -> None:
        """The logits are bitwise equal before and after a request for layers."""
        x = images(1, seed=2)
        before = infer(triton, "resnet18", x, "logits")["logits"]
        infer(triton, "resnet18", x, "logits", "layer2.0.act1")
        np.testing.assert_array_equal(infer(triton, "resnet18", x, "logits")["logits"], before)

    @pytest.mark.anyio
    async def test_ten_mixed_clients(self, url: str, resnet18: LoadedNetwork) -> None:
        """Concurrent requests with different layers and batch sizes each return their own outputs."""
        layers = [
            "bn1",
            "layer1",
            "layer1.0.bn1",
            "layer2.0",
            "layer3.1.act2",
            "layer4",
            "global_pool",
            "fc",
            "maxpool",
        ]
        requested = [[], *([layer] for layer in layers)]

        async def infer_one(client: Any, index: int) -> tuple[Array, dict[str, Array]]:
            x = images(1 + index % 3, seed=index)
            tensor = tritonclient.grpc.aio.InferInput("image", x.shape, "UINT8")
            tensor.set_data_from_numpy(x)
            names = ["logits", *requested[index]]
            outputs = [tritonclient.grpc.aio.InferRequestedOutput(name) for name in names]
            result = await client.infer("resnet18", [tensor], outputs=outputs)
            return x, {name: result.as_numpy(name) for name in names}

        async with tritonclient.grpc.aio.InferenceServerClient(url) as client:
            results = await asyncio.gather(*(infer_one(client, index) for index in [*range(10), *range(10)]))
        assert [set(actual) - {"logits"} for _, actual in results] == [
            set(layers) for layers in [*requested, *requested]
        ]
        for x, actual in results[:10]:
            assert_close(actual, hooked(resnet18, x))


class TestForeignFiles:
    """Models that zoonnx did not export."""

    def test_module_paths_from_the_nodes(self, url: str, triton: Any) -> None:
        """The layers of a torch.onnx file have module paths, and their values are the modules' outputs."""
        with Client(url) as client:
            assert [layer.name for layer in client.layers("foreign")] == ["0", "1.0", "1.1", "1"]
            output = client.model("foreign").outputs[0].name
            x = np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)
            name = client.model("foreign").inputs[0].name
            actual = client.activations("foreign", {name: x}, ["0", "1.0"])
            outputs = client.infer("foreign", {name: x}, [output, "1"])
        np.testing.assert_array_equal(np.maximum(actual["0"], 0), actual["1.0"])
        assert actual["0"].shape == (2, 4)
        np.testing.assert_array_equal(outputs["1"], outputs[output])

    def test_node_names_without_module_paths(self, url: str, triton: Any) -> None:
        """The layers of a model built by hand have its nodes' names."""
        x = np.array([[-1, 2, -3]], np.float32)
        actual = infer(triton, "nodes", x, "first", "y")
        np.testing.assert_array_equal(actual["first"], np.abs(x))
        with pytest.raises(InferenceServerException, match="names of the file's nodes"):
            infer(triton, "nodes", x, "zzz")

    def test_a_dynamic_size_that_is_not_the_batch(self, tmp_path: Path) -> None:
        """A layer is batched only if its first dimension has the name of the inputs' first dimension."""
        nodes = [helper.make_node("Neg", ["x"], ["a"], "a"), helper.make_node("Transpose", ["a"], ["t"], "t")]
        nodes.append(helper.make_node("Transpose", ["t"], ["y"], "y"))
        value = [TensorProto.FLOAT, ["n", "s"]]
        path = write_model(tmp_path / "model.onnx", nodes, [("x", *value)], [("y", *value)])
        model = onnx.load(path)
        shapes = {"a": ["n", 4], "t": [4, "n"]}
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items()]
        model.graph.value_info.extend(infos)
        onnx.save(model, path)
        layers = read_layers(path, {})
        assert {name: layers.is_batched(name) for name in "aty"} == {"a": True, "t": False, "y": False}

    @pytest.mark.parametrize("scopes", ["['', 'a'", "[1, 2]", "{}", "nonsense", "(" * 500])
    def test_malformed_scopes_are_ignored(self, tmp_path: Path, scopes: str) -> None:
        """Malformed name scopes are ignored."""
        node = helper.make_node("Neg", ["x"], ["y"], "node")
        node.metadata_props.add(key=NAME_SCOPES_KEY, value=scopes)
        value = [TensorProto.FLOAT, ["n", 2]]
        path = write_model(tmp_path / "model.onnx", [node], [("x", *value)], [("y", *value)])
        assert list(read_layers(path, {}).layers) == ["node"]

    def test_a_damaged_layer_map(self, tmp_path: Path) -> None:
        """A damaged layer map is an error that names the file."""
        with pytest.raises(BadModelError, match=r"model\.onnx: .* layer map"):
            read_layers(tmp_path / "model.onnx", {LAYERS_KEY: "{"})

    def test_a_pattern_that_matches_nothing(self, url: str) -> None:
        """The error for a glob without a match names it."""
        with Client(url) as client, pytest.raises(NoSuchLayerError, match=re.escape("matches 'conv*'")):
            client.activations("nodes", {"x": np.zeros((1, 3), np.float32)}, ["conv*"])


class TestSessions:
    """The cache of sessions for layers."""

    def test_the_least_recently_used_is_dropped(self, repository: Path) -> None:
        """A session is cached until enough other combinations of layers are requested."""
        path = repository / "nodes" / "1" / "model.onnx"
        plain = Session.open(path, "cpu")
        sessions = TapSessions(path, plain, limit=2)
        first, second, third = (frozenset(values) for values in ({"a"}, {"a", "y"}, {"y"}))
        assert sessions.cached(frozenset()) is plain
        assert sessions.cached(first) is None
        recent = sessions.build(first)
        sessions.build(second)
        assert sessions.cached(first) is recent
        sessions.build(third)
        assert sessions.cached(first) is recent
        assert sessions.cached(second) is None

    def test_concurrent_requests_share_a_session(self, repository: Path) -> None:
        """Concurrent requests for the same layers share the session that the first of them builds."""
        path = repository / "nodes" / "1" / "model.onnx"
        cache = TapSessions(path, Session.open(path, "cpu"), limit=2)
        with ThreadPoolExecutor(5) as pool:
            sessions = set(pool.map(cache.build, [frozenset({"a"})] * 5))
        assert sessions == {cache.cached(frozenset({"a"}))}

    def test_external_weights(self, tmp_path: Path) -> None:
        """The layers of a model with external weights can be requested too."""
        path = write_with_external_weights(tmp_path / "model.onnx")
        session = TapSessions(path, Session.open(path, "cpu"), limit=1).build(frozenset({"hidden"}))
        outputs = session.run({"x": np.ones((1, 300), np.float32)}, ["hidden", "y"])
        np.testing.assert_array_equal(outputs["hidden"], np.full((1, 300), 3, np.float32))

    def test_outputs_are_not_duplicated(self, repository: Path) -> None:
        """A value that is already an output is not added again."""
        model = onnx.load_from_string(add_outputs(repository / "nodes" / "1" / "model.onnx", frozenset({"a", "y"})))
        assert [output.name for output in model.graph.output] == ["y", "a"]

    def test_our_layer_map_is_read_from_metadata(self, repository: Path) -> None:
        """The layers of our own export are read from its metadata, without opening the file."""
        path = repository / "resnet18" / "1" / "model.onnx"
        metadata = Session.open(path, "cpu").metadata
        assert len(read_layers(path.with_name("missing.onnx"), metadata).layers) == 93


def write_with_external_weights(path: Path) -> Path:
    weight = onnx.numpy_helper.from_array(np.full((300,), 3, np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["hidden"]), helper.make_node("Neg", ["hidden"], ["y"])]
    value = [TensorProto.FLOAT, ["n", 300]]
    infos = [helper.make_tensor_value_info(name, *value) for name in "xy"]
    graph = helper.make_graph(nodes, "external", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (path.parent / "weights.bin").exists()
    return path
