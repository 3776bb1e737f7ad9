"""Properties of individual networks. Those of all networks are in test_timm_interface.py."""

import pytest
import torch
from torch import nn

from zoo import networks
from zoo.catalog import CATALOG, create_model
from zoo.errors import SettingsError
from zoo.layers import BlurPool2d, LocallyConnected2d


class TestConvNet4:
    """ConvNet4."""

    def test_has_65834_parameters(self):
        """At 1 channel and 10 classes, as counted by hand."""
        by_hand = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 32 + 64 + 64) + 64 * 10 + 10
        actual = sum(p.numel() for p in networks.ConvNet4().parameters())
        assert (actual, by_hand) == (65_834, 65_834)

    @pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 8), (33, 17)])
    def test_accepts_any_size_from_two(self, size):
        """Odd and unequal sizes are accepted too."""
        assert networks.ConvNet4().eval()(torch.zeros(1, 1, *size)).shape == (1, 10)

    def test_module_paths(self):
        """Users request outputs from a server by these paths, so they must not change by accident."""
        body = ["conv1", "bn1", "act1", "conv2", "bn2", "act2", "pool", "conv3", "bn3", "act3", "conv4", "bn4", "act4"]
        head = ["head.global_pool.pool", "head.global_pool.flatten", "head.drop", "head.fc", "head.flatten"]
        leaves = [path for path, module in networks.ConvNet4().named_modules() if not list(module.children())]
        assert leaves == body + head


def parameter_count(module):
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters())


class TestOneOutputVolume:
    """The argument for convolution: three ways from 1x8x8 to 8 channels of 8x8."""

    def test_first_layers_have_the_parameters_of_the_notes(self):
        """Fully connected has 33,280, locally connected 5,120, convolutional 80."""
        full, local = networks.Mlp().fc1, networks.LocalNet().local1
        conv = nn.Conv2d(1, 8, 3, padding=1)
        assert (parameter_count(full), parameter_count(local), parameter_count(conv)) == (33_280, 5_120, 80)
        x = torch.zeros(1, 1, 8, 8)
        assert full(x.flatten(1)).numel() == local(x).numel() == conv(x).numel()

    def test_full_and_local_layers_grow_with_the_image(self):
        """On 1x16x16 the fully and the locally connected layer have four times as many weights as on 1x8x8."""
        assert networks.Mlp(img_size=(16, 16)).fc1.weight.numel() == 4 * networks.Mlp().fc1.weight.numel()
        local = networks.LocalNet(img_size=(16, 16)).local1
        assert local.weight.numel() == 4 * networks.LocalNet().local1.weight.numel()


class TestPapers:
    """Figures from the papers or their well-known implementations."""

    def test_lenet5_has_61706_parameters(self):
        """Layer by layer: 156 + 2,416 + 48,120 + 10,164 + 850."""
        assert parameter_count(networks.LeNet5()) == 156 + 2_416 + 48_120 + 10_164 + 850 == 61_706

    @pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20), ("resnet56", 56)])
    def test_resnets_have_the_layers_of_their_names(self, name, layers):
        """As in the paper, 3x3 convolutions and the classifier count, shortcuts do not."""
        modules = create_model(name).modules()
        weighted = [m for m in modules if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
        assert len(weighted) == layers

    @pytest.mark.parametrize(("name", "millions"), [("resnet20", 0.27), ("resnet56", 0.85)])
    def test_resnets_have_the_papers_parameters(self, name, millions):
        """Table 6 of the paper; the projection shortcuts add 2,752 to each network."""
        assert parameter_count(create_model(name)) / 1e6 == pytest.approx(millions, abs=0.006)

    def test_a_separable_convolution_has_a_ninth_of_the_weights(self):
        """From 64 to 64 channels: 9 * 64 + 64 * 64 instead of 9 * 64 * 64."""
        block = create_model("mobilenet_tiny").stage2[1]
        weights = block.depthwise.conv.weight.numel() + block.pointwise.conv.weight.numel()
        assert (weights, 9 * 64 * 64) == (4_672, 36_864)

    def test_a_bottleneck_has_17_sixteenths(self):
        """With 32 channels: 17 / 16 * 32^2 weights, where a plain 3x3 convolution has 9 * 32^2."""
        block = create_model("bottleneck4").stage1[0]
        weights = [m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert sum(weights) == 17 * 32**2 // 16

    def test_localnet_shares_no_weights(self):
        """All its layers with windows are locally connected, none is convolutional."""
        kinds = {type(m) for m in networks.LocalNet().modules() if hasattr(m, "kernel_size") and hasattr(m, "weight")}
        assert kinds == {LocallyConnected2d}


@pytest.mark.parametrize("name", CATALOG)
def test_no_layer_has_the_name_of_an_input_or_output(name):
    """An exported model has these inputs and outputs, and one name means one tensor everywhere."""
    paths = {path for path, _ in create_model(name).named_modules()}
    assert not paths & {"image", "logits", "probabilities"}


class TestOptions:
    """Options for pooling, normalisation and dropout."""

    @pytest.mark.parametrize("name", ["localnet", "lenet5", "convnet4", "vgg_tiny", "bottleneck4"])
    @pytest.mark.parametrize(("pool", "kind"), [("max", nn.MaxPool2d), ("avg", nn.AvgPool2d), ("blur", BlurPool2d)])
    def test_pool(self, name, pool, kind):
        """Every pool of the network is of the requested kind, and the output shape is unchanged."""
        network = getattr(networks, name)(pool=pool).eval()
        pools = [m for m in network.modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d | BlurPool2d)]
        assert {type(m) for m in pools} == {kind}
        assert network(torch.zeros(2, *network.pretrained_cfg["input_size"])).shape == (2, 10)

    @pytest.mark.parametrize("name", ["convnet4", "allconv", "vgg_tiny", "resnet8", "mobilenet_tiny", "bottleneck4"])
    @pytest.mark.parametrize(("norm", "kinds"), [("group", {nn.GroupNorm}), ("none", set())])
    def test_norm(self, name, norm, kinds):
        """Another norm replaces BatchNorm; without any, the convolutions have biases."""
        network = getattr(networks, name)(norm=norm).eval()
        norm_kinds = {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
        biases = {m.bias is not None for m in network.modules() if isinstance(m, nn.Conv2d)}
        assert (norm_kinds, biases) == (kinds, {norm == "none"})
        assert network(torch.zeros(2, *network.pretrained_cfg["input_size"])).shape == (2, 10)

    @pytest.mark.parametrize("name", ["allconv", "vgg_tiny", "resnet8", "mobilenet_tiny", "convnext4", "bottleneck4"])
    def test_spatial_dropout_drops_whole_channels(self, name):
        """In training mode a channel is zero everywhere or nowhere; in eval mode nothing is dropped."""
        network = getattr(networks, name)(stage_drop_rate=0.5)
        dropped = next(m for m in network.modules() if isinstance(m, nn.Dropout2d))
        ones = torch.ones(1, 64, 8, 8)
        assert {float(channel.std()) for channel in dropped(ones)[0]} == {0.0}
        assert len(set(dropped(ones)[0, :, 0, 0].tolist())) == 2
        assert torch.equal(network.eval() and dropped(ones), ones)

    def test_standard_dropout_drops_single_values(self):
        """All three stages have nn.Dropout, none has nn.Dropout2d."""
        network = networks.vgg_tiny(stage_drop_rate=0.5, stage_dropout="standard")
        assert [type(m) for m in network.modules() if isinstance(m, nn.Dropout2d)] == []
        assert len([m for m in network.modules() if isinstance(m, nn.Dropout) and m.p == 0.5]) == 3

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"pool": "min"}, "pool must be one of max, avg, blur; got 'min'"),
            ({"norm": "layer"}, "norm must be one of batch, group, none; got 'layer'"),
            ({"stage_dropout": "channel"}, "stage_dropout must be one of standard, spatial; got 'channel'"),
        ],
    )
    def test_unknown_choices_are_rejected(self, option, message):
        """The message lists the choices."""
        with pytest.raises(SettingsError, match=message):
            networks.vgg_tiny(**option)

    def test_signal1d_rejects_a_blur_pool(self):
        """BlurPool2d is for images."""
        with pytest.raises(SettingsError, match="pool must be one of max, avg; got 'blur'"):
            networks.signal1d(pool="blur")


class TestInitialisation:
    """He initialisation with fan-out."""

    def test_variance_is_two_over_fan_out(self):
        """Fan-out is the kernel's elements times the filters per group: 9 for a depthwise 3x3 convolution."""
        torch.manual_seed(0)
        block = create_model("mobilenet_tiny").stage3[1]
        depthwise, pointwise = block.depthwise.conv.weight, block.pointwise.conv.weight
        assert depthwise.var().item() == pytest.approx(2 / 9, rel=0.15)
        assert pointwise.var().item() == pytest.approx(2 / 128, rel=0.15)

    def test_biases_are_initially_zero(self):
        """Convolutions have biases if there is no norm."""
        biases = [m.bias for m in networks.vgg_tiny(norm="none").modules() if isinstance(m, nn.Conv2d)]
        assert all(bool((bias == 0).all()) for bias in biases)


class TestSizes:
    """An image size that a layer does not accept is rejected when the network is built."""

    @pytest.mark.parametrize(
        ("name", "size", "message"),
        [
            (
                "lenet5",
                (8, 8),
                "cannot build network 'lenet5': layer 'c3' does not accept an input of size 2x2: .* requires 5",
            ),
            (
                "lenet5",
                (18, 18),
                "layer 's4' does not accept an input of size 3x3: .* does not cover the last 1 of 3 elem",
            ),
            ("localnet", (8, 6), "layer 'pool2' does not accept an input of size 4x3: .* lengths of 2 or 4 fit"),
            ("vgg_tiny", (32, 36), "layer 'pool3' does not accept an input of size 8x9"),
            ("resnet8", (30, 32), "layer 'layer3.0.shortcut.pool' does not accept an input of size 15x16"),
            ("convnext4", (4, 4), "layer 'down3.1' does not accept an input of size 1x1"),
            ("signal1d", (1, 120), "layer 'pool2' does not accept an input of size 30"),
            ("signal1d", (8, 128), r"signals as images of height 1, \(N, C, 1, L\); got \(1, 1, 8, 128\)"),
        ],
    )
    def test_illegal_size_names_the_layer(self, name, size, message):
        """The message has the layer's input size and the sizes that fit."""
        with pytest.raises(SettingsError, match=message):
            create_model(name, img_size=size)
