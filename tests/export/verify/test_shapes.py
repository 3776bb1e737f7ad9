"""Shapes are what independent witnesses agree on; one that lies stops the export, one that is silent is counted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import ShapeError
from export.interface.interface import ImageInterface
from export.reference.determinism import expectations
from export.verify import shapes
from export.verify.layer_map import map_layers
from export.verify.shapes import Case
from export.verify.symbolic_shapes import Inferred
from protos import manifest
from zoo import LoadedNetwork
from zoo.errors import GeometryError

Prepared = tuple[onnx.ModelProto, nn.Module, manifest.LayerMap, ImageInterface]


@pytest.fixture(scope="module")
def prepared(convnet4: LoadedNetwork) -> Prepared:
    """A converted network with its layer map, as the check gets it."""
    network, rule = prepare(convnet4.network), ImageInterface(convnet4.preprocessing)
    model = rule.attach(convert(network, rule.input_size, 20))
    return model, network, map_layers(model, network, expectations(network, rule)), rule


def knows(found: manifest.Shapes) -> dict[str, int]:
    return {witness.name: witness.values for witness in found.witnesses}


class TestVerdict:
    """What is verified, and by whom."""

    def test_every_shape_of_convnet4(self, exported: Exported) -> None:
        """All 12 module outputs and the 5 other values are verified; the manifest says by whom."""
        found = exported.manifest.shapes
        assert (found.module_outputs, found.module_outputs_verified) == (12, 12)
        assert (found.other_values, found.other_values_verified, list(found.unverified)) == (5, 5, [])
        layers = {layer.name: layer for layer in exported.manifest.layer_map.layers}
        assert list(layers["act2"].shape_witnesses) == ["runtime", "pytorch", "geometry", "onnx", "symbolic"]
        assert list(layers["conv1"].shape_witnesses) == []

    def test_the_exporters_shapes_are_not_heard(self, prepared: Prepared) -> None:
        """What the exporter wrote into the file, right or wrong, is stripped before anybody is asked."""
        model, network, layer_map, rule = prepared
        lying = onnx.ModelProto()
        lying.CopyFrom(model)
        for info in lying.graph.value_info:
            info.type.tensor_type.shape.dim[-1].dim_value = 77
        assert lying.graph.value_info
        assert knows(shapes.check_shapes(lying, network, layer_map, rule)) == knows(
            shapes.check_shapes(model, network, layer_map, rule)
        )

    def test_fewer_witnesses_are_not_enough(self, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without geometry and both inferences nothing is verified, and each value is listed."""
        monkeypatch.setattr(shapes, "_geometry", silent(GeometryError))
        monkeypatch.setattr(shapes, "_onnx_inference", silent(onnx.shape_inference.InferenceError))
        monkeypatch.setattr(shapes.symbolic_shapes, "infer", lambda _: Inferred([], "lost for words"))
        found = shapes.check_shapes(*prepared[:3], prepared[3])
        assert (found.module_outputs_verified, found.other_values_verified) == (0, 0)
        assert len(found.unverified) == 17
        assert [witness.name for witness in found.witnesses if witness.silent_because == "lost for words"] == [
            "geometry",
            "onnx",
            "symbolic",
        ]

    def test_a_witness_that_knows_no_size_says_so(self, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever has spoken of every value, and knows the whole shape of none, has a reason, too."""
        honest = shapes._onnx_inference

        def vague(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
            infos = honest(model)
            for dim in (dim for info in infos for dim in info.type.tensor_type.shape.dim):
                dim.dim_param = "unk__7"
            return infos

        monkeypatch.setattr(shapes, "_onnx_inference", vague)
        (onnx_witness,) = (each for each in shapes.check_shapes(*prepared).witnesses if each.name == "onnx")
        assert (onnx_witness.values, onnx_witness.silent_because) == (0, shapes.NOTHING_WHOLE)

    @pytest.mark.parametrize(
        ("dim", "sizes"),
        [
            ({"dim_value": 7}, [7, 7]),
            ({"dim_param": "batch"}, [1, 3]),
            ({"dim_param": "320*batch"}, [320, 960]),
            ({"dim_param": "batch*4"}, [4, 12]),
            ({"dim_param": "unk__0"}, [None, None]),
            ({"dim_param": "batch + 1"}, [2, 4]),
            ({"dim_param": "floor(height/2 - 1/2) + 1"}, [4, 4]),
            ({"dim_param": "width/3"}, [None, None]),
            ({"dim_param": "unk__0 + 1"}, [None, None]),
            ({}, [None, None]),
        ],
    )
    def test_an_anonymous_size_is_no_evidence(self, dim: dict[str, Any], sizes: list[int | None]) -> None:
        """Only numbers, and what can be worked out from the input's own sizes, are evidence."""
        info = onnx.ValueInfoProto(name="v")
        info.type.tensor_type.shape.dim.add(**dim)
        assert [next(shapes._sizes(info, Case(batch, 8, 8))) for batch in (1, 3)] == sizes


class Uneven(nn.Module):
    """Two ways to half the size, which are one size only to those who know more than their formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 4, 3, padding=1)
        self.strided = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.pooled = nn.AvgPool2d(2, ceil_mode=True)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, 4)."""
        x = self.before(x)
        result: torch.Tensor = self.act(self.strided(x) + self.pooled(x)).mean((2, 3))
        return result


class TestGivingUp:
    """onnxruntime's symbolic inference where it cannot tell all."""

    def test_leaves_no_file_and_what_it_knew_stands(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convnet4: LoadedNetwork
    ) -> None:
        """Nothing is left in the current directory; what came before counts, the verdict says where it gave up."""
        monkeypatch.chdir(tmp_path)
        to = tmp_path / "elsewhere" / "models"
        settings = ExportSettings(to=to, name="uneven", dynamic_size=True)
        rule = replace(convnet4.preprocessing, input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
        exported = export_model(Uneven().eval(), settings, preprocessing=rule, labels=tuple("abcd"))
        assert [each.name for each in tmp_path.iterdir()] == ["elsewhere"]
        (symbolic,) = [each for each in exported.manifest.shapes.witnesses if each.name == "symbolic"]
        assert symbolic.silent_because.endswith("(Add): a size that it cannot work out")
        layers = {layer.name: list(layer.shape_witnesses) for layer in exported.manifest.layer_map.layers}
        assert ["symbolic" in layers[name] for name in ("before", "strided", "pooled", "act")] == [True] * 3 + [False]


class TestContradiction:
    """A witness that says otherwise."""

    def test_names_the_layer_and_every_witness(self, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error says which layer, at which batch, and what each says."""
        honest = shapes._geometry

        def lying(*args: Any) -> Any:
            return {**honest(*args), "pool": {Case(1, 8, 8): (1, 32, 5, 4)}}

        monkeypatch.setattr(shapes, "_geometry", lying)
        with pytest.raises(ShapeError) as caught:
            shapes.check_shapes(*prepared[:3], prepared[3])
        message = str(caught.value)
        assert "layer 'pool'" in message
        assert "runtime says [1, 32, 4, 4]; pytorch says [1, 32, 4, 4]; geometry says [1, 32, 5, 4]" in message

    def test_nothing_is_written(self, convnet4: LoadedNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A contradiction stops the export."""
        frozen = {Case(batch, 8, 8): (1, 32, 8, 8) for batch in (1, 3)}
        monkeypatch.setattr(shapes, "_pytorch", lambda *_: {"act1": frozen})
        with pytest.raises(ShapeError, match="at batch 3"):
            export_model(convnet4, ExportSettings(to=tmp_path / "models", name="n"))
        assert list(tmp_path.iterdir()) == []

    def test_a_frozen_batch_is_noticed(self, prepared: Prepared) -> None:
        """A file in which a value forgets the batch contradicts PyTorch."""
        model, network, _, rule = prepared
        frozen = onnx.ModelProto()
        frozen.CopyFrom(model)
        relu = next(node for node in frozen.graph.node if node.op_type == "Relu")
        value = relu.output[0]
        mean = onnx.helper.make_node("ReduceMean", [f"{value}_whole", "axis"], [value], keepdims=1)
        relu.output[0] = f"{value}_whole"
        frozen.graph.node.insert(list(frozen.graph.node).index(relu) + 1, mean)
        frozen.graph.initializer.append(onnx.numpy_helper.from_array(torch.tensor([0]).numpy(), "axis"))
        layer_map = manifest.LayerMap(layers=[manifest.Layer(path="act1", name="act1", value=value)])
        with pytest.raises(ShapeError, match=r"layer 'act1'.*at batch 3 of 8x8: runtime says \[1, 32, 8, 8\]"):
            shapes.check_shapes(frozen, network, layer_map, rule)


def silent(error: type[Exception]) -> Callable[..., Any]:
    """A witness that cannot speak."""

    def ask(*_: Any) -> Any:
        raise error("lost for words")

    return ask
