"""Sizes, costs and receptive fields against PyTorch, published figures, and the gradient's own support."""

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
EVERY_NET = [*CATALOG, *QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES)]


def on_meta(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network without data, and the input size it was made for."""
    with torch.device("meta"):
        network = CATALOG[name].builder() if name in CATALOG else timm.create_model(name)
    return network.eval(), tuple(network.pretrained_cfg["input_size"])


def geometry_of(name: str) -> Geometry:
    return measure(*on_meta(name))


@pytest.mark.parametrize("name", EVERY_NET)
class TestAgainstPyTorch:
    """Every catalog network and 30 and more backbones of as many families."""

    def test_sizes_are_those_of_a_forward(self, name):
        """Each output of each module call has the size that PyTorch gives it, and no operation is unknown."""
        network, input_size = on_meta(name)
        graph, geometry = record(network, input_size), measure(network, input_size)
        expected = [[graph.recorded[ref.index] for ref in call.outputs if ref] for call in graph.calls]
        found = [[shape for shape in layer.outputs if shape] for layer in geometry.layers]
        assert (geometry.unknown, found) == ({}, expected)

    def test_macs_are_half_of_the_counted_flops(self, name):
        """torch.utils.flop_counter counts a multiplication and an addition as two."""
        network, input_size = on_meta(name)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, *input_size, device="meta"))
        assert 2 * measure(network, input_size).macs == counter.get_total_flops()

    def test_parameters_are_pytorchs(self, name):
        """In total, and for each layer that has some of its own."""
        network, input_size = on_meta(name)
        geometry = measure(network, input_size)
        expected = {path: sum(each.numel() for each in module.parameters()) for path, module in network.named_modules()}
        assert geometry.parameters == expected[""]
        assert {layer.path: layer.parameters for layer in geometry.layers} == {
            layer.path: expected[layer.path] for layer in geometry.layers
        }


@pytest.mark.parametrize(
    ("name", "size", "jump"),
    [("vgg16", 212, 32), ("resnet18", 435, 32), ("resnet50", 427, 32)],
)
def test_published_receptive_fields(name, size, jump):
    """Of the last feature map: VGG16 212, ResNet-18 435, ResNet-50 v1.5 427."""
    last = geometry_of(name).last_map
    assert [(field.size, field.jump, field.exact) for field in last.fields] == [(size, jump, True)] * 2


def test_strides_of_resnet18_at_224():
    """13 windows fit exactly, 5 leave out padding, 3 (the 1x1 shortcuts) leave out a row of their input."""
    verdicts = Counter(
        "real" if layer.lost else "padding" if layer.unused else "exact" for layer in sliding("resnet18")
    )
    assert verdicts == {"exact": 13, "padding": 5, "real": 3}


def sliding(name: str) -> tuple[Layer, ...]:
    return geometry_of(name).sliding


@pytest.mark.parametrize("name", QUICK)
def test_a_backbones_logits_see_the_whole_image(name):
    """Global pools and attention over all tokens report the whole image, exactly."""
    fields = geometry_of(name).layers[0].fields
    assert [(field.whole, field.exact, field.units) for field in fields] == [(True, True, 1)] * 2


def test_squeeze_and_excite_sees_the_whole_image():
    """The gate comes of a global pool, so what it multiplies depends on every pixel."""
    geometry = geometry_of("mobilenetv3_small_100")
    assert not geometry["blocks.0.0.bn1"].fields[0].whole
    assert geometry["blocks.0.0.se"].fields[0].whole


def test_windowed_attention_sees_its_window():
    """In Swin's first block a unit sees its window of 7 patches of 4 pixels; shifted windows give only a bound."""
    geometry = geometry_of("swin_tiny_patch4_window7_224")
    first, shifted = geometry["layers.0.blocks.0"].fields[0], geometry["layers.0.blocks.1"].fields[0]
    assert (first.size, first.jump, first.exact) == (28, 28, True)
    assert (first.units, first.box(6), first.box(7)) == (56, range(28), range(28, 56))
    assert not shifted.exact


def test_a_patch_token_sees_its_patch():
    """Before attention a token of a ViT sees 16 pixels; with the class token beside it, that is only bounded."""
    geometry = geometry_of("vit_tiny_patch16_224")
    token = geometry["patch_embed"].fields[0]
    assert (token.units, token.size, token.jump, token.start, token.exact) == (14, 16, 16, 0, True)
    assert not geometry["norm_pre"].fields[0].exact
    assert geometry["blocks.0"].fields[0].whole
