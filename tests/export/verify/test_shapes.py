"""The verification of shapes by independent witnesses."""

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
from export.reference.determinism import reference_runs
from export.verify import shape_witnesses, shapes
from export.verify.layer_map import map_layers
from export.verify.shape_witnesses import Case
from export.verify.symbolic_shapes import Inferred
from protos import manifest
from zoo import LoadedNetwork
from zoo.errors import GeometryError

Prepared = tuple[onnx.ModelProto, nn.Module, manifest.LayerMap, ImageInterface]


@pytest.fixture(scope="module")
def prepared(convnet4: LoadedNetwork) -> Prepared:
    """Return the arguments of check_shapes for a converted network."""
    network, interface = prepare(convnet4.network), ImageInterface(convnet4.preprocessing)
    model = interface.attach(convert(network, interface, 20))
    return model, network, map_layers(model, network, reference_runs(network, interface)), interface


def complete_shape_counts(verdict: manifest.Shapes) -> dict[str, int]:
    """Return the number of complete shapes by witness."""
    return {witness.name: witness.values for witness in verdict.witnesses}


class TestVerdict:
    """The numbers of verified shapes, and their witnesses."""

    def test_every_shape_of_convnet4(self, exported: Exported) -> None:
        """All 12 module outputs and the 5 other values are verified; the manifest lists the witnesses."""
        verdict = exported.manifest.shapes
        assert (verdict.module_outputs, verdict.module_outputs_verified) == (12, 12)
        assert (verdict.other_values, verdict.other_values_verified, list(verdict.unverified)) == (5, 5, [])
        layers = {layer.name: layer for layer in exported.manifest.layer_map.layers}
        assert list(layers["act2"].shape_witnesses) == ["runtime", "pytorch", "geometry", "onnx", "symbolic"]
        assert list(layers["conv1"].shape_witnesses) == []

    def test_the_exporters_shapes_are_ignored(self, prepared: Prepared) -> None:
        """Wrong shapes in the file do not change the result, because they are removed first."""
        model, network, layer_map, interface = prepared
        wrong = onnx.ModelProto()
        wrong.CopyFrom(model)
        for info in wrong.graph.value_info:
            info.type.tensor_type.shape.dim[-1].dim_value = 77
        assert wrong.graph.value_info
        verdict = shapes.check_shapes(wrong, network, layer_map, interface)
        expected = shapes.check_shapes(model, network, layer_map, interface)
        assert complete_shape_counts(verdict) == complete_shape_counts(expected)

    def test_too_few_witnesses(self, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without geometry and both inferences, no shape is verified, and each value is listed as unverified."""
        monkeypatch.setattr(shape_witnesses, "_geometry", failing(GeometryError))
        monkeypatch.setattr(shape_witnesses, "_onnx_inference", failing(onnx.shape_inference.InferenceError))
        monkeypatch.setattr(shape_witnesses.symbolic_shapes, "infer", lambda _: Inferred([], "no result"))
        verdict = shapes.check_shapes(*prepared[:3], prepared[3])
        assert (verdict.module_outputs_verified, verdict.other_values_verified) == (0, 0)
        assert len(verdict.unverified) == 17
        assert [witness.name for witness in verdict.witnesses if witness.silent_because == "no result"] == [
            "geometry",
            "onnx",
            "symbolic",
        ]

    def test_witness_without_complete_shapes(self, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        """A witness without a complete shape reports that as its reason."""
        original = shape_witnesses._onnx_inference

        def anonymous_dimensions(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
            infos = original(model)
            for dim in (dim for info in infos for dim in info.type.tensor_type.shape.dim):
                dim.dim_param = "unk__7"
            return infos

        monkeypatch.setattr(shape_witnesses, "_onnx_inference", anonymous_dimensions)
        verdict = shapes.check_shapes(*prepared)
        (onnx_witness,) = (witness for witness in verdict.witnesses if witness.name == "onnx")
        assert (onnx_witness.values, onnx_witness.silent_because) == (0, shapes.NO_COMPLETE_SHAPE)

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
    def test_dimensions(self, dim: dict[str, Any], sizes: list[int | None]) -> None:
        """A dimension is known if it is a number, or an expression of the input's sizes."""
        info = onnx.ValueInfoProto(name="v")
        info.type.tensor_type.shape.dim.add(**dim)
        assert [next(shape_witnesses._dimensions(info, Case(batch, (8, 8)))) for batch in (1, 3)] == sizes


class Uneven(nn.Module):
    """Two layers that halve the size, with different formulas that have the same values."""

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


class TestIncompleteInference:
    """Networks for which onnxruntime's symbolic inference fails."""

    def test_partial_result_without_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convnet4: LoadedNetwork
    ) -> None:
        """No file is written to the current folder; shapes before the failing node count, and the node is reported."""
        monkeypatch.chdir(tmp_path)
        to = tmp_path / "elsewhere" / "models"
        settings = ExportSettings(to=to, name="uneven", dynamic_size=True)
        preprocessing = replace(convnet4.preprocessing, input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
        exported = export_model(Uneven().eval(), settings, preprocessing=preprocessing, labels=tuple("abcd"))
        assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
        (symbolic,) = [witness for witness in exported.manifest.shapes.witnesses if witness.name == "symbolic"]
        assert symbolic.silent_because.endswith("(Add): it cannot infer a size")
        layers = {layer.name: list(layer.shape_witnesses) for layer in exported.manifest.layer_map.layers}
        assert ["symbolic" in layers[name] for name in ("before", "strided", "pooled", "act")] == [True] * 3 + [False]


class TestContradiction:
    """Witnesses that disagree."""

    def test_names_the_layer_and_every_witness(self, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error has the layer, the batch, and the shape reported by each witness."""
        original = shape_witnesses._geometry

        def with_wrong_pool(*args: Any) -> Any:
            return {**original(*args), "pool": {Case(1, (8, 8)): (1, 32, 5, 4)}}

        monkeypatch.setattr(shape_witnesses, "_geometry", with_wrong_pool)
        with pytest.raises(ShapeError) as caught:
            shapes.check_shapes(*prepared[:3], prepared[3])
        message = str(caught.value)
        assert "layer 'pool'" in message
        assert "runtime: [1, 32, 4, 4]; pytorch: [1, 32, 4, 4]; geometry: [1, 32, 5, 4]" in message

    def test_nothing_is_written(self, convnet4: LoadedNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A contradiction stops the export."""
        frozen = {Case(batch, (8, 8)): (1, 32, 8, 8) for batch in (1, 3)}
        monkeypatch.setattr(shape_witnesses, "_pytorch", lambda *_: {"act1": frozen})
        with pytest.raises(ShapeError, match="at batch 3"):
            export_model(convnet4, ExportSettings(to=tmp_path / "models", name="n"))
        assert list(tmp_path.iterdir()) == []

    def test_frozen_batch(self, prepared: Prepared) -> None:
        """A value without the batch dimension contradicts PyTorch."""
        model, network, _, interface = prepared
        frozen = onnx.ModelProto()
        frozen.CopyFrom(model)
        relu = next(node for node in frozen.graph.node if node.op_type == "Relu")
        value = relu.output[0]
        mean = onnx.helper.make_node("ReduceMean", [f"{value}_before_mean", "axis"], [value], keepdims=1)
        relu.output[0] = f"{value}_before_mean"
        frozen.graph.node.insert(list(frozen.graph.node).index(relu) + 1, mean)
        frozen.graph.initializer.append(onnx.numpy_helper.from_array(torch.tensor([0]).numpy(), "axis"))
        layer_map = manifest.LayerMap(layers=[manifest.Layer(path="act1", name="act1", value=value)])
        with pytest.raises(ShapeError, match=r"layer 'act1'.*at batch 3 of 8x8: runtime: \[1, 32, 8, 8\]"):
            shapes.check_shapes(frozen, network, layer_map, interface)


def failing(error: type[Exception]) -> Callable[..., Any]:
    """Return a source of shapes that raises `error`."""

    def source(*_: Any) -> Any:
        raise error("no result")

    return source
