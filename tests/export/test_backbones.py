"""Backbones of a dozen families, from timm to a checked repository."""

from collections import Counter
from pathlib import Path

import pytest

from export import ExportSettings, export_model
from protos import manifest
from tests.export.conftest import shake
from zoo import load_net

FAMILIES = [
    "convnext_atto",
    "edgenext_xx_small",
    "efficientnet_b0",
    "fastvit_t8",
    "ghostnet_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "regnety_002",
    "repvgg_a0",
    "resnet18",
    "tf_efficientnet_lite0",
    "vit_tiny_patch16_224",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_exports_with_every_layer_found(name: str, tmp_path: Path) -> None:
    """The backbone passes the gate, and each of its modules is in the file or was folded into its neighbour."""
    loaded = load_net(name)
    shake(loaded.net)
    exported = export_model(loaded, ExportSettings(to=tmp_path, name=name))
    statuses = Counter(manifest.LayerStatus.Name(layer.status) for layer in exported.manifest.layer_map.layers)
    assert statuses.keys() <= {"EXACT", "ALIAS", "FOLDED"}
    assert statuses["EXACT"] > 40
