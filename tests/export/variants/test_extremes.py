"""Variants of networks that are difficult at the ends of the input's range, or for the tools."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from export import ExportSettings, export_model
from export.source.module import loaded_module, plain_preprocessing
from export.variants import fp16
from export.variants.runner import make_variants, plan
from export.variants.settings import Bounds, VariantSettings
from zoo.errors import DataError
from zoo.runs.load import WeightsSource


class Normalised(nn.Module):
    """A network that divides by a norm, which is 0 for a black image, unless an epsilon below float16's range helps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(functional.normalize(torch.relu(self.conv(x)).mean((2, 3))))


class Split(nn.Module):
    """A network with a node of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.conv(x).chunk(2, dim=1)
        return self.fc((first * second.sigmoid()).mean((2, 3)))


def fp16_of(network: nn.Module, to: Path) -> tuple[Path, Path]:
    """Export a network with random weights and its fp16 variant; return both models."""
    loaded = loaded_module(network.eval(), plain_preprocessing((3, 16, 16)), ())
    loaded = replace(loaded, weights=WeightsSource("random", 0))
    settings = VariantSettings(kinds=("fp16",), bounds=Bounds(min_speedup=0.0))
    planned = plan(loaded, to, "n", settings)
    exported = export_model(loaded, ExportSettings(to=to, name="n"))
    (outcome,) = make_variants(planned, exported.folder)
    assert outcome.verdict.accepted, outcome.verdict.reasons
    assert outcome.folder is not None
    return exported.folder / "model.onnx", outcome.folder / "model.onnx"


@pytest.mark.parametrize("network", [Normalised(), Split()], ids=["epsilon", "split"])
def test_fp16_at_the_ends_of_the_range(network: nn.Module, tmp_path: Path) -> None:
    """On a black and a white image the variant computes what the original does, to float16's precision."""
    images = np.stack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)])
    fp32, fp16 = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["logits"], {"image": images})[0]
        for path in fp16_of(network, tmp_path)
    )
    np.testing.assert_allclose(fp16, fp32, atol=5e-3)


def test_a_variant_that_fails_does_not_stop_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a tool raises becomes the reason of a rejection."""
    monkeypatch.setattr(fp16, "halve", lambda *_: [][0])
    loaded = loaded_module(Split().eval(), plain_preprocessing((3, 16, 16)), ())
    loaded = replace(loaded, weights=WeightsSource("random", 0))
    planned = plan(loaded, tmp_path, "n", VariantSettings(kinds=("fp16", "fixed")))
    exported = export_model(loaded, ExportSettings(to=tmp_path, name="n"))
    failed, following = make_variants(planned, exported.folder)
    assert failed.verdict.reasons == ("building it failed: IndexError: list index out of range",)
    assert following.verdict.accepted


def test_a_run_that_skipped_bad_images_is_evaluated_without_them(tmp_path: Path) -> None:
    """The dataset of a run is opened as the run opened it; another dataset fails on an unreadable image."""
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(12):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{index}.png")
    (tmp_path / "images" / "cat" / "broken.png").write_bytes(b"no image")
    data = f"folder:{tmp_path / 'images'}"
    loaded = loaded_module(Split().eval(), plain_preprocessing((3, 16, 16)), ())
    loaded = replace(loaded, weights=WeightsSource("trained", 0), labels=("cat", "dog"), data=data)
    settings = VariantSettings(kinds=("int8",))
    with pytest.raises(DataError, match=r"broken\.png"):
        plan(loaded, tmp_path / "models", "n", settings)
    planned = plan(replace(loaded, bad_images="skip"), tmp_path / "models", "n", settings)
    assert len(planned.eval_data.test.images) > 0
