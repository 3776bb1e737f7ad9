"""What single networks of the catalog promise. What all of them do is in test_contract.py."""

import pytest
import torch
from torch import nn

from zoo import networks
from zoo.catalog import create_model
from zoo.errors import SettingsError
from zoo.layers import BlurPool2d, LocallyConnected2d


class TestConvNet4:
    """What ConvNet4 alone promises."""

    def test_has_65834_parameters(self):
        """At 1 channel and 10 classes, as counted by hand."""
        by_hand = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 32 + 64 + 64) + 64 * 10 + 10
        actual = sum(p.numel() for p in networks.ConvNet4().parameters())
        assert (actual, by_hand) == (65_834, 65_834)

    @pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 8), (33, 17)])
    def test_takes_any_size_from_two(self, size):
        """Odd and unequal sizes too."""
        assert networks.ConvNet4().eval()(torch.zeros(1, 1, *size)).shape == (1, 10)

    def test_module_paths_are_these(self):
        """The paths are what users ask a server for, so they do not change by accident."""
        body = ["conv1", "bn1", "act1", "conv2", "bn2", "act2", "pool", "conv3", "bn3", "act3", "conv4", "bn4", "act4"]
        head = ["head.global_pool.pool", "head.global_pool.flatten", "head.drop", "head.fc", "head.flatten"]
        leaves = [path for path, module in networks.ConvNet4().named_modules() if not list(module.children())]
        assert leaves == body + head


def parameters(module):
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())


class TestOneOutputVolume:
    """The argument for convolution: three ways from 1x8x8 to 8 channels of 8x8."""

    def test_first_layers_have_the_parameters_of_the_notes(self):
        """Fully connected 33,280, locally connected 5,120, convolutional 80."""
        full, local = networks.Mlp().fc1, networks.LocalNet().local1
        conv = nn.Conv2d(1, 8, 3, padding=1)
        assert (parameters(full), parameters(local), parameters(conv)) == (33_280, 5_120, 80)
        x = torch.zeros(1, 1, 8, 8)
        assert full(x.flatten(1)).numel() == local(x).numel() == conv(x).numel()

    def test_only_the_convolution_keeps_its_size_on_larger_images(self):
        """On 1x16x16 the fully connected layer grows 4-fold, as does the locally connected one."""
        assert networks.Mlp(img_size=(16, 16)).fc1.weight.numel() == 4 * networks.Mlp().fc1.weight.numel()
        local = networks.LocalNet(img_size=(16, 16)).local1
        assert local.weight.numel() == 4 * networks.LocalNet().local1.weight.numel()


class TestPapers:
    """Figures that the papers or their well-known implementations give."""

    def test_lenet5_has_61706_parameters(self):
        """By hand: 156 + 2,416 + 48,120 + 10,164 + 850."""
        assert parameters(networks.LeNet5()) == 156 + 2_416 + 48_120 + 10_164 + 850 == 61_706

    @pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20), ("resnet56", 56)])
    def test_resnets_have_the_layers_of_their_names(self, name, layers):
        """Counted as the paper does: 3x3 convolutions and the classifier, not the shortcuts."""
        modules = create_model(name).modules()
        counted = [m for m in modules if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
        assert len(counted) == layers

    @pytest.mark.parametrize(("name", "millions"), [("resnet20", 0.27), ("resnet56", 0.85)])
    def test_resnets_have_the_papers_parameters(self, name, millions):
        """Table 6 of the paper, and 2,752 more in each for the projection shortcuts."""
        assert parameters(create_model(name)) / 1e6 == pytest.approx(millions, abs=0.006)

    def test_a_separable_convolution_has_a_ninth_of_the_weights(self):
        """Of 64 to 64 channels: 9 * 64 + 64 * 64, not 9 * 64 * 64."""
        block = create_model("mobilenet_tiny").stage2[1]
        weights = block.depthwise.conv.weight.numel() + block.pointwise.conv.weight.numel()
        assert (weights, 9 * 64 * 64) == (4_672, 36_864)

    def test_a_bottleneck_has_17_sixteenths(self):
        """Of 32 channels: 17 / 16 * 32^2 weights, where a plain 3x3 convolution has 9 * 32^2."""
        block = create_model("bottleneck4").stage1[0]
        weights = [m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert sum(weights) == 17 * 32**2 // 16

    def test_localnet_shares_nothing(self):
        """Its layers are locally connected, not convolutional."""
        kinds = {type(m) for m in networks.LocalNet().modules() if hasattr(m, "kernel_size") and hasattr(m, "weight")}
        assert kinds == {LocallyConnected2d}


class TestOptions:
    """Pooling, norm and dropout."""

    @pytest.mark.parametrize("name", ["localnet", "lenet5", "convnet4", "vgg_tiny", "bottleneck4"])
    @pytest.mark.parametrize(("pool", "kind"), [("max", nn.MaxPool2d), ("avg", nn.AvgPool2d), ("blur", BlurPool2d)])
    def test_pool(self, name, pool, kind):
        """Every pool of the network is of the kind asked for, and the output keeps its shape."""
        network = getattr(networks, name)(pool=pool).eval()
        pools = [m for m in network.modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d | BlurPool2d)]
        assert {type(m) for m in pools} == {kind}
        assert network(torch.zeros(2, *network.pretrained_cfg["input_size"])).shape == (2, 10)

    @pytest.mark.parametrize("name", ["convnet4", "allconv", "vgg_tiny", "resnet8", "mobilenet_tiny", "bottleneck4"])
    @pytest.mark.parametrize(("norm", "kinds"), [("group", {nn.GroupNorm}), ("none", set())])
    def test_norm(self, name, norm, kinds):
        """Other norms replace BatchNorm; without any, the convolutions have biases."""
        network = getattr(networks, name)(norm=norm).eval()
        found = {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
        biases = {m.bias is not None for m in network.modules() if isinstance(m, nn.Conv2d)}
        assert (found, biases) == (kinds, {norm == "none"})
        assert network(torch.zeros(2, *network.pretrained_cfg["input_size"])).shape == (2, 10)

    @pytest.mark.parametrize("name", ["allconv", "vgg_tiny", "resnet8", "mobilenet_tiny", "convnext4", "bottleneck4"])
    def test_spatial_dropout_drops_whole_channels(self, name):
        """In training the first stage's channels are zero as a whole or not at all; in evaluation none is dropped."""
        network = getattr(networks, name)(stage_drop_rate=0.5)
        dropped = next(m for m in network.modules() if isinstance(m, nn.Dropout2d))
        ones = torch.ones(1, 64, 8, 8)
        assert {float(channel.std()) for channel in dropped(ones)[0]} == {0.0}
        assert len(set(dropped(ones)[0, :, 0, 0].tolist())) == 2
        assert torch.equal(network.eval() and dropped(ones), ones)

    def test_standard_dropout_drops_single_values(self):
        """The other kind."""
        network = networks.vgg_tiny(stage_drop_rate=0.5, stage_dropout="standard")
        assert [type(m) for m in network.modules() if isinstance(m, nn.Dropout2d)] == []
        assert len([m for m in network.modules() if isinstance(m, nn.Dropout) and m.p == 0.5]) == 3

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"pool": "min"}, "pool is one of max, avg, blur; got 'min'"),
            ({"norm": "layer"}, "norm is one of batch, group, none; got 'layer'"),
            ({"stage_dropout": "channel"}, "stage_dropout is one of standard, spatial; got 'channel'"),
        ],
    )
    def test_unknown_words_are_refused(self, option, message):
        """Each message lists what there is."""
        with pytest.raises(SettingsError, match=message):
            networks.vgg_tiny(**option)

    def test_unknown_pool_of_a_signal_is_refused(self):
        """A blur is for images."""
        with pytest.raises(SettingsError, match="pool is one of max, avg; got 'blur'"):
            networks.signal1d(pool="blur")


class TestInitialisation:
    """He's, with fan-out."""

    def test_variance_is_two_over_fan_out(self):
        """A filter's fan-out is its taps times the filters of its group: 9 for a depthwise one."""
        torch.manual_seed(0)
        block = create_model("mobilenet_tiny").stage3[1]
        depthwise, pointwise = block.depthwise.conv.weight, block.pointwise.conv.weight
        assert depthwise.var().item() == pytest.approx(2 / 9, rel=0.15)
        assert pointwise.var().item() == pytest.approx(2 / 128, rel=0.15)

    def test_biases_begin_at_zero(self):
        """Where there is no norm."""
        biases = [m.bias for m in networks.vgg_tiny(norm="none").modules() if isinstance(m, nn.Conv2d)]
        assert all(bool((bias == 0).all()) for bias in biases)


class TestSizes:
    """An illegal size is refused when the network is built, and the layer is named."""

    @pytest.mark.parametrize(
        ("name", "size", "message"),
        [
            ("lenet5", (8, 8), "'lenet5' cannot be built so: the layer 'c3' does not take a size of 2x2: .* needs 5"),
            ("lenet5", (18, 18), "the layer 's4' does not take a size of 3x3: .* leaves the last 1 of 3 unseen"),
            ("localnet", (8, 6), "the layer 'pool2' does not take a size of 4x3: .* lengths of 2 or 4 fit"),
            ("vgg_tiny", (32, 36), "the layer 'pool3' does not take a size of 8x9"),
            ("resnet8", (30, 32), "the layer 'layer3.0.shortcut.pool' does not take a size of 15x16"),
            ("convnext4", (4, 4), "the layer 'down3.1' does not take a size of 1x1"),
            ("signal1d", (1, 120), "the layer 'pool2' does not take a size of 30"),
            ("signal1d", (8, 128), r"signals as images of height 1, \(N, C, 1, L\); got \(1, 1, 8, 128\)"),
        ],
    )
    def test_illegal_size_names_the_layer(self, name, size, message):
        """With what it got and what would fit."""
        with pytest.raises(SettingsError, match=message):
            create_model(name, img_size=size)
