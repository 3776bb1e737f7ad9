"""Export settings, and the properties that a conversion guarantees."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export import ExportSettings
from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import ConversionError, SettingsError
from export.interface.interface import ImageInterface
from zoo import LoadedNetwork, load_network


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "../up"}, "cannot be a model's name"),
        ({"name": ""}, "cannot be a model's name"),
        ({"name": ".hidden"}, "cannot be a model's name"),
        ({"name": "a" * 201}, "at most 200 letters"),
        ({"opset": 17}, "opset 17 is not supported: choose 18 to 23"),
        ({"opset": 24}, "opset 24 is not supported"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_batch_size": 2**31}, "max_batch_size is 2147483648: it must be 1 to 2147483647"),
        ({"max_queue_delay_us": -1}, "max_queue_delay_us is -1"),
    ],
)
def test_out_of_range(setting: dict[str, Any], message: str) -> None:
    """A value out of range is rejected with the setting and its range."""
    with pytest.raises(SettingsError, match=message):
        ExportSettings(**{"to": Path("models"), "name": "n", **setting})


@pytest.mark.parametrize("opset", [18, 23])
def test_opset(convnet4: LoadedNetwork, opset: int) -> None:
    """The model has the requested opset, at both ends of the range."""
    model = convert(prepare(convnet4.network), ImageInterface(convnet4.preprocessing), opset)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    assert model.ir_version <= 10


def test_wrong_opset_is_detected(convnet4: LoadedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion fails if the exporter writes another opset than requested."""
    original = torch.onnx.export

    def export_as_opset_18(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "opset_version": 18})

    monkeypatch.setattr(torch.onnx, "export", export_as_opset_18)
    with pytest.raises(ConversionError, match="opset 21 was requested, but this torch wrote opset 18"):
        convert(prepare(convnet4.network), ImageInterface(convnet4.preprocessing), 21)


def test_prepare_fuses_a_copy() -> None:
    """Re-parameterisable blocks become one convolution in a copy of the network; the original is unchanged."""
    network = load_network("repvgg_a0").network
    count = len(list(network.modules()))
    prepared = prepare(network)
    assert len(list(prepared.modules())) < count == len(list(network.modules()))


def test_converted_model_has_a_dynamic_batch(convnet4: LoadedNetwork) -> None:
    """The batch is a named dimension of the input and the output."""
    model = convert(prepare(convnet4.network), ImageInterface(convnet4.preprocessing), 20)
    infos: list[onnx.ValueInfoProto] = [*model.graph.input, *model.graph.output]
    assert [info.type.tensor_type.shape.dim[0].dim_param for info in infos] == ["batch", "batch"]
