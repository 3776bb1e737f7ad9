"""Settings out of range are refused by name, and odd conversions noticed."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export import ExportSettings
from export.convert.convert import convert
from export.convert.prepare import prepare
from export.errors import ConversionError, SettingsError
from zoo import LoadedNetwork, load_network


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "../up"}, "cannot be a model's name"),
        ({"name": ""}, "cannot be a model's name"),
        ({"name": ".hidden"}, "cannot be a model's name"),
        ({"name": "a" * 201}, "at most 200 of them"),
        ({"opset": 17}, "opset 17 is not supported: choose 18 to 23"),
        ({"opset": 24}, "opset 24 is not supported"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_batch_size": 2**31}, "max_batch_size is 2147483648: it must be 1 to 2147483647"),
        ({"max_queue_delay_us": -1}, "max_queue_delay_us is -1"),
    ],
)
def test_refused(setting: dict[str, Any], message: str) -> None:
    """The setting is named, and what would do."""
    with pytest.raises(SettingsError, match=message):
        ExportSettings(**{"to": Path("models"), "name": "n", **setting})


@pytest.mark.parametrize("opset", [18, 23])
def test_opset_is_what_was_asked(convnet4: LoadedNetwork, opset: int) -> None:
    """The file has the opset that was asked for, at both ends of the range."""
    model = convert(prepare(convnet4.network), convnet4.preprocessing.input_size, opset)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    assert model.ir_version <= 10


def test_silently_kept_opset_is_noticed(convnet4: LoadedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the exporter writes another opset than asked, the export stops."""
    honest = torch.onnx.export

    def stubborn(*args: Any, **options: Any) -> Any:
        return honest(*args, **{**options, "opset_version": 18})

    monkeypatch.setattr(torch.onnx, "export", stubborn)
    with pytest.raises(ConversionError, match="opset 21 was asked for, but this torch wrote opset 18"):
        convert(prepare(convnet4.network), convnet4.preprocessing.input_size, 21)


def test_prepare_fuses_and_leaves_the_original() -> None:
    """Re-parameterisable blocks become one convolution, in a copy."""
    network = load_network("repvgg_a0").network
    count = len(list(network.modules()))
    prepared = prepare(network)
    assert len(list(prepared.modules())) < count == len(list(network.modules()))


def test_converted_model_has_a_free_batch(convnet4: LoadedNetwork) -> None:
    """The batch is a named dimension on the way in and out."""
    model = convert(prepare(convnet4.network), convnet4.preprocessing.input_size, 20)
    ends: list[onnx.ValueInfoProto] = [*model.graph.input, *model.graph.output]
    assert [each.type.tensor_type.shape.dim[0].dim_param for each in ends] == ["batch", "batch"]
