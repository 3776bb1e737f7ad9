"""Sizes, costs and receptive fields, compared with PyTorch and with published figures."""

from collections import Counter

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo import CATALOG
from zoo.geometry.graph import record
from zoo.geometry.measure import Geometry, Layer, measure

QUICK = ["resnet18", "mobilenetv3_small_100", "edgenext_xx_small", "vit_tiny_patch16_224"]
BACKBONES = """
    vgg16 resnet50 densenet121 inception_v3 efficientnet_b0 convnext_atto regnety_002 mobilenetv4_conv_small repvgg_a0
    ghostnet_100 tf_efficientnet_b0 fastvit_t8 swin_tiny_patch4_window7_224 mixer_s16_224 deit_tiny_patch16_224
    efficientformer_l1 levit_128s poolformer_s12 mobilevit_xxs maxvit_pico_rw_256 hrnet_w18_small dla34 xception41
    nfnet_f0 res2net50_26w_4s cspresnet50 volo_d1_224 pvt_v2_b0 crossvit_tiny_240 hiera_tiny_224 focalnet_tiny_srf
    coat_tiny starnet_s1 botnet26t_256 xcit_nano_12_p8_224 gcvit_xxtiny
""".split()  # noqa: SIM905
ALL_NETWORKS = [*CATALOG, *QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES)]


def on_meta(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network on the meta device, and its default input size."""
    with torch.device("meta"):
        network = CATALOG[name].builder() if name in CATALOG else timm.create_model(name)
    return network.eval(), tuple(network.pretrained_cfg["input_size"])


def geometry_of(name: str) -> Geometry:
    return measure(*on_meta(name))


@pytest.mark.parametrize("name", ALL_NETWORKS)
class TestAgainstPyTorch:
    """Every catalog network, and more than 30 backbones of different families."""

    def test_sizes_match_a_forward_pass(self, name):
        """Each output of each module call has PyTorch's size, and no operation is unknown."""
        network, input_size = on_meta(name)
        graph, geometry = record(network, input_size), measure(network, input_size)
        expected = [[graph.recorded[ref.index] for ref in call.outputs if ref] for call in graph.calls]
        actual = [[shape for shape in layer.outputs if shape] for layer in geometry.layers]
        assert (geometry.unknown, actual) == ({}, expected)

    def test_macs_are_half_the_flops(self, name):
        """torch.utils.flop_counter counts a multiply-accumulate as two FLOPs."""
        network, input_size = on_meta(name)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, *input_size, device="meta"))
        assert 2 * measure(network, input_size).macs == counter.get_total_flops()

    def test_parameters_match_pytorch(self, name):
        """Parameter counts match in total and for each layer."""
        network, input_size = on_meta(name)
        geometry = measure(network, input_size)
        expected = {path: sum(p.numel() for p in module.parameters()) for path, module in network.named_modules()}
        assert geometry.parameters == expected[""]
        assert {layer.path: layer.parameters for layer in geometry.layers} == {
            layer.path: expected[layer.path] for layer in geometry.layers
        }


@pytest.mark.parametrize(
    ("name", "size", "jump"),
    [("vgg16", 212, 32), ("resnet18", 435, 32), ("resnet50", 427, 32)],
)
def test_published_receptive_fields(name, size, jump):
    """The last feature map sees 212 pixels in VGG16, 435 in ResNet-18 and 427 in ResNet-50 v1.5."""
    last = geometry_of(name).last_map
    assert [(field.size, field.jump, field.exact) for field in last.fields] == [(size, jump, True)] * 2


def test_strides_of_resnet18_at_224():
    """13 strides are exact, 5 skip padding, and 3 (the 1x1 shortcuts) drop an input row."""
    kinds = Counter("input" if layer.lost else "padding" if layer.unused else "exact" for layer in sliding("resnet18"))
    assert kinds == {"exact": 13, "padding": 5, "input": 3}


def sliding(name: str) -> tuple[Layer, ...]:
    return geometry_of(name).sliding


@pytest.mark.parametrize("name", QUICK)
def test_logits_see_the_whole_image(name):
    """After global pooling or attention over all tokens, the logits see exactly the whole image."""
    fields = geometry_of(name).layers[0].fields
    assert [(field.sees_whole_axis, field.exact, field.units) for field in fields] == [(True, True, 1)] * 2


def test_squeeze_and_excite_sees_the_whole_image():
    """The gate is computed from a global pool, so its product depends on every pixel."""
    geometry = geometry_of("mobilenetv3_small_100")
    assert not geometry["blocks.0.0.bn1"].fields[0].sees_whole_axis
    assert geometry["blocks.0.0.se"].fields[0].sees_whole_axis


def test_windowed_attention_sees_its_window():
    """In Swin's first block a unit sees its window of 7 patches of 4 pixels; shifted windows are only bounded."""
    geometry = geometry_of("swin_tiny_patch4_window7_224")
    first, shifted = geometry["layers.0.blocks.0"].fields[0], geometry["layers.0.blocks.1"].fields[0]
    assert (first.size, first.jump, first.exact) == (28, 28, True)
    assert (first.units, first.box(6), first.box(7)) == (56, range(28), range(28, 56))
    assert not shifted.exact


def test_a_patch_token_sees_its_patch():
    """Before attention a ViT token sees its 16 pixels; with the class token concatenated, that is only bounded."""
    geometry = geometry_of("vit_tiny_patch16_224")
    token = geometry["patch_embed"].fields[0]
    assert (token.units, token.size, token.jump, token.start, token.exact) == (14, 16, 16, 0, True)
    assert not geometry["norm_pre"].fields[0].exact
    assert geometry["blocks.0"].fields[0].sees_whole_axis
