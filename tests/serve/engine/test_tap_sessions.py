"""Layers as outputs: any client asks for a module's path and gets what PyTorch's hook sees."""

import asyncio
import re
from collections.abc import Iterator
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
from serve.client.sync import Client
from serve.engine.session import Session
from serve.engine.tap_sessions import Taps, with_outputs
from serve.errors import BadModelError, NoSuchLayerError
from serve.repository.layer_index import read_layers
from tests.export.conftest import shake
from tests.serve.conftest import Serve, write_model
from zoo import LoadedNetwork, load_network

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def resnet18() -> LoadedNetwork:
    """A backbone with random weights, none of its branches zero."""
    loaded = load_network("resnet18")
    shake(loaded.network)
    return loaded


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, resnet18: LoadedNetwork) -> Path:
    """Our export of it; torch's own export of a small network; and a file that knows only nodes."""
    models = tmp_path_factory.mktemp("tapped") / "models"
    export_model(resnet18, ExportSettings(to=models, name="resnet18"))
    write_foreign(models / "foreign" / "1" / "model.onnx")
    nodes = [helper.make_node("Abs", ["x"], ["a"], "first"), helper.make_node("Neg", ["a"], ["y"], "second")]
    value = [TensorProto.FLOAT, ["n", 3]]
    write_model(models / "nodes" / "1" / "model.onnx", nodes, [("x", *value)], [("y", *value)])
    return models


def write_foreign(path: Path) -> None:
    """Write a file as torch.onnx alone makes it: with module paths on its nodes, but no map of ours."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))).eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(network, (torch.zeros(2, 3),), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    assert program is not None
    path.parent.mkdir(parents=True)
    onnx.save(program.model_proto, path)


@pytest.fixture(scope="module")
def url(serve: Serve, repository: Path) -> Iterator[str]:
    """A server of the three."""
    with serve(repository, "--grpc-port", 0, "--provider", "cpu") as process:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("ready: 3 models"), line
        yield line.split()[-1]


@pytest.fixture(scope="module")
def triton(url: str) -> Iterator[Any]:
    """Triton's own client."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        yield client


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


def ask(client: Any, model: str, array: Array, *outputs: str) -> dict[str, Array]:
    """Ask as any user of tritonclient would."""
    name, kind = ("image", "UINT8") if array.dtype == np.uint8 else ("x", "FP32")
    tensor = tritonclient.grpc.InferInput(name, array.shape, kind)
    tensor.set_data_from_numpy(array)
    wanted = [tritonclient.grpc.InferRequestedOutput(output) for output in outputs]
    answer = client.infer(model, [tensor], outputs=wanted)
    return {output: answer.as_numpy(output) for output in outputs}


def hooked(loaded: LoadedNetwork, array: Array) -> dict[str, Array]:
    """What every module gives in PyTorch, by its own hooks, and the network's logits."""
    seen: dict[str, Array] = {}

    def hook(path: str) -> Any:
        return lambda _module, _args, output: seen.__setitem__(path, output.clone().numpy())

    handles = [module.register_forward_hook(hook(path)) for path, module in loaded.network.named_modules()]
    with torch.no_grad():
        loaded.network(loaded.preprocessing.normalise(torch.from_numpy(array)))
    for handle in handles:
        handle.remove()
    return {**seen, "logits": seen[""]}


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, array in found.items():
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5 * scale, err_msg=name)


class TestResnet18:
    """A stock client and a backbone."""

    def test_layers_beside_the_logits(self, triton: Any, resnet18: LoadedNetwork) -> None:
        """`layer1.0.bn1` and `layer4` come beside the logits and equal PyTorch's hooks."""
        x = images(2)
        found = ask(triton, "resnet18", x, "logits", "layer1.0.bn1", "layer4")
        assert [array.shape for array in found.values()] == [(2, 1000), (2, 64, 56, 56), (2, 512, 7, 7)]
        assert_same(found, hooked(resnet18, x))

    def test_every_layer_by_glob(self, url: str, resnet18: LoadedNetwork) -> None:
        """Our client's `*` brings every layer that is in the file, in the order of the calls, each as hooked."""
        x = images(1, seed=4)
        with Client(url) as client:
            found = client.activations("resnet18", {"image": x}, ["*"])
        expected = hooked(resnet18, x)
        assert len(found) == 73
        assert list(found)[:3] == ["bn1", "act1", "maxpool"]
        assert_same(found, expected)

    def test_a_folded_layer_says_where_it_went(self, triton: Any) -> None:
        """A convolution that was folded into its BatchNorm names it."""
        with pytest.raises(InferenceServerException, match=r"'layer1.0.conv1' .* folded it into 'layer1.0.bn1'"):
            ask(triton, "resnet18", images(1), "layer1.0.conv1")

    def test_an_unknown_layer_is_met_with_a_close_one(self, triton: Any) -> None:
        """A mistyped path is answered with one that is there, as INVALID_ARGUMENT."""
        with pytest.raises(
            InferenceServerException, match=r"no output or layer 'layer5'; did you mean 'layer"
        ) as caught:
            ask(triton, "resnet18", images(1), "layer5")
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"

    def test_plain_answers_stay_as_they_are(self, triton: Any) -> None:
        """Asking for layers in between does not change a bit of the plain logits."""
        x = images(1, seed=2)
        before = ask(triton, "resnet18", x, "logits")["logits"]
        ask(triton, "resnet18", x, "logits", "layer2.0.act1")
        np.testing.assert_array_equal(ask(triton, "resnet18", x, "logits")["logits"], before)

    def test_ten_mixed_clients(self, url: str, resnet18: LoadedNetwork) -> None:
        """Ten clients at once with different layers and batches are each answered with what they asked for."""
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
        wanted = [[], *([layer] for layer in layers)]

        async def one(client: Any, index: int) -> tuple[Array, dict[str, Array]]:
            x = images(1 + index % 3, seed=index)
            tensor = tritonclient.grpc.aio.InferInput("image", x.shape, "UINT8")
            tensor.set_data_from_numpy(x)
            names = ["logits", *wanted[index]]
            outputs = [tritonclient.grpc.aio.InferRequestedOutput(name) for name in names]
            answer = await client.infer("resnet18", [tensor], outputs=outputs)
            return x, {name: answer.as_numpy(name) for name in names}

        async def everybody() -> list[tuple[Array, dict[str, Array]]]:
            async with tritonclient.grpc.aio.InferenceServerClient(url) as client:
                return await asyncio.gather(*(one(client, index) for index in [*range(10), *range(10)]))

        answers = asyncio.run(everybody())
        assert [set(found) - {"logits"} for _, found in answers] == [set(layers) for layers in [*wanted, *wanted]]
        for x, found in answers[:10]:
            assert_same(found, hooked(resnet18, x))


class TestForeignFiles:
    """Models that we did not export."""

    def test_module_paths_from_the_nodes(self, url: str, triton: Any) -> None:
        """A plain torch.onnx file has its layers by path; the values are what the layers compute."""
        with Client(url) as client:
            assert [layer.name for layer in client.layers("foreign")] == ["0", "1.0", "1.1", "1"]
            output = client.model("foreign").outputs[0].name
            x = np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)
            name = client.model("foreign").inputs[0].name
            found = client.activations("foreign", {name: x}, ["0", "1.0"])
            whole = client.infer("foreign", {name: x}, [output, "1"])
        np.testing.assert_array_equal(np.maximum(found["0"], 0), found["1.0"])
        assert found["0"].shape == (2, 4)
        np.testing.assert_array_equal(whole["1"], whole[output])

    def test_node_names_where_there_is_nothing_better(self, url: str, triton: Any) -> None:
        """A hand-made file's layers go by its nodes' names."""
        x = np.array([[-1, 2, -3]], np.float32)
        found = ask(triton, "nodes", x, "first", "y")
        np.testing.assert_array_equal(found["first"], np.abs(x))
        with pytest.raises(InferenceServerException, match="names of the file's nodes"):
            ask(triton, "nodes", x, "zzz")

    def test_a_free_size_that_is_not_the_batch(self, tmp_path: Path) -> None:
        """Only a first dimension that bears the inputs' own name for the batch shares batches."""
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
        assert {name: layers.shares_batches(name) for name in "aty"} == {"a": True, "t": False, "y": False}

    @pytest.mark.parametrize("scopes", ["['', 'a'", "[1, 2]", "{}", "nonsense", "(" * 500])
    def test_broken_scopes_name_no_module(self, tmp_path: Path, scopes: str) -> None:
        """Metadata that only looks like the exporter's is passed over."""
        node = helper.make_node("Neg", ["x"], ["y"], "node")
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
        value = [TensorProto.FLOAT, ["n", 2]]
        path = write_model(tmp_path / "model.onnx", [node], [("x", *value)], [("y", *value)])
        assert list(read_layers(path, {}).layers) == ["node"]

    def test_a_broken_map_is_named(self, tmp_path: Path) -> None:
        """A layer map of ours that was damaged is an error that names the file."""
        with pytest.raises(BadModelError, match=r"model\.onnx: .* layer map"):
            read_layers(tmp_path / "model.onnx", {"zoonnx.layers": "{"})

    def test_a_pattern_that_matches_nothing(self, url: str) -> None:
        """A glob without a match is refused by name."""
        with Client(url) as client, pytest.raises(NoSuchLayerError, match=re.escape("matches 'conv*'")):
            client.activations("nodes", {"x": np.zeros((1, 3), np.float32)}, ["conv*"])


class TestSessions:
    """Sessions for layers are few, and built when asked for."""

    def test_the_oldest_goes(self, repository: Path) -> None:
        """A set of layers asked for again has the same session, unless too many others were in between."""
        path = repository / "nodes" / "1" / "model.onnx"
        plain = Session.open(path, "cpu")
        taps = Taps(path, plain, limit=2)
        first, second, third = (frozenset(values) for values in ({"a"}, {"a", "y"}, {"y"}))

        async def main() -> None:
            assert await taps.session(frozenset()) is plain
            kept, other = await taps.session(first), await taps.session(second)
            assert await taps.session(first) is kept
            await taps.session(third)
            assert await taps.session(first) is kept
            assert await taps.session(second) is not other

        asyncio.run(main())

    def test_one_session_for_those_who_ask_at_once(self, repository: Path) -> None:
        """Requests for the same layers that arrive together share the session that the first of them has built."""
        path = repository / "nodes" / "1" / "model.onnx"
        taps = Taps(path, Session.open(path, "cpu"), limit=2)

        async def main() -> None:
            sessions = await asyncio.gather(*(taps.session(frozenset({"a"})) for _ in range(5)))
            assert len(set(sessions)) == 1

        asyncio.run(main())

    def test_outside_weights_are_found(self, tmp_path: Path) -> None:
        """A model whose weights lie in a file beside it can give its layers, too."""
        path = write_with_outside_weights(tmp_path / "model.onnx")
        session = asyncio.run(Taps(path, Session.open(path, "cpu"), limit=1).session(frozenset({"hidden"})))
        found = session.run({"x": np.ones((1, 300), np.float32)}, ["hidden", "y"])
        np.testing.assert_array_equal(found["hidden"], np.full((1, 300), 3, np.float32))

    def test_outputs_are_not_doubled(self, repository: Path) -> None:
        """A value that is an output already is not added once more."""
        model = onnx.load_from_string(with_outputs(repository / "nodes" / "1" / "model.onnx", frozenset({"a", "y"})))
        assert [output.name for output in model.graph.output] == ["y", "a"]

    def test_our_map_is_read_without_onnx(self, repository: Path) -> None:
        """The layers of our own file come from its metadata."""
        path = repository / "resnet18" / "1" / "model.onnx"
        metadata = Session.open(path, "cpu").metadata
        assert len(read_layers(tmp_nowhere(path), metadata).layers) == 93


def tmp_nowhere(path: Path) -> Path:
    """A path at which no file is: whoever reads it fails."""
    return path.with_name("nowhere.onnx")


def write_with_outside_weights(path: Path) -> Path:
    weight = onnx.numpy_helper.from_array(np.full((300,), 3, np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["hidden"]), helper.make_node("Neg", ["hidden"], ["y"])]
    value = [TensorProto.FLOAT, ["n", 300]]
    infos = [helper.make_tensor_value_info(name, *value) for name in "xy"]
    graph = helper.make_graph(nodes, "outside", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (path.parent / "weights.bin").exists()
    return path
