"""The nets of the catalog."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from zoo import nets
from zoo.catalog import CATALOG, create_model


@pytest.fixture(params=CATALOG)
def name(request):
    """Each net of the catalog in turn."""
    return request.param


@pytest.fixture
def net(name):
    """The net as its architecture has it, in eval mode."""
    torch.manual_seed(0)
    return create_model(name).eval()


@pytest.fixture
def batch(name):
    """Three random inputs of the net's own size."""
    return torch.randn(3, *CATALOG[name].input_size, generator=torch.Generator().manual_seed(1))


class TestContract:
    """What every net of the catalog keeps to: timm's model interface."""

    def test_gives_logits_for_each_image(self, net, batch, name):
        """The output has one row an image and one column a class."""
        assert net(batch).shape == (3, CATALOG[name].num_classes)

    def test_head_after_features_is_forward(self, net, batch):
        """Forward is forward_features, then forward_head, and nothing else."""
        assert torch.equal(net.forward_head(net.forward_features(batch)), net(batch))

    def test_feature_width_is_as_declared(self, net, batch):
        """num_features are the channels of the features, head_hidden_size the width before the classifier."""
        features = net.forward_features(batch)
        pre_logits = net.forward_head(features, pre_logits=True)
        assert (features.shape[1], pre_logits.shape) == (net.num_features, (3, net.head_hidden_size))

    def test_classifier_maps_pre_logits_to_logits(self, net, batch):
        """get_classifier is the last layer."""
        pre_logits = net.forward_head(net.forward_features(batch), pre_logits=True)
        assert torch.equal(net.get_classifier()(pre_logits), net(batch))

    def test_reset_classifier_changes_the_number_of_classes(self, net, batch):
        """A new head has the new width, and the net says so."""
        net.reset_classifier(7)
        assert (net.num_classes, net(batch).shape) == (7, (3, 7))

    def test_reset_classifier_to_zero_gives_features(self, net, batch):
        """Without classes the net ends before its classifier."""
        net.reset_classifier(0)
        assert net(batch).shape == (3, net.head_hidden_size)

    def test_reset_classifier_changes_the_pool(self, net, batch):
        """Another global pool gives other features of the same shape."""
        averaged = net.forward_head(net.forward_features(batch), pre_logits=True)
        net.reset_classifier(net.num_classes, global_pool="max")
        highest = net.forward_head(net.forward_features(batch), pre_logits=True)
        assert bool((highest >= averaged).all())
        assert not torch.equal(highest, averaged)

    @pytest.mark.parametrize("num_classes", [1, 3, 1000])
    @pytest.mark.parametrize("in_chans", [1, 3, 4])
    def test_takes_any_classes_and_channels(self, name, num_classes, in_chans):
        """num_classes and in_chans are free."""
        net = create_model(name, num_classes=num_classes, in_chans=in_chans).eval()
        height, width = CATALOG[name].input_size[1:]
        assert net(torch.zeros(2, in_chans, height, width)).shape == (2, num_classes)

    def test_drop_rate_reaches_the_head(self, name):
        """Dropout is there when asked for."""
        dropouts = [m.p for m in create_model(name, drop_rate=0.25).modules() if isinstance(m, nn.Dropout)]
        assert 0.25 in dropouts

    def test_features_only_matches_feature_info(self, name, batch):
        """timm's feature extractor gives each declared level, with its channels and its stride."""
        extractor = timm.create_model(name, features_only=True).eval()
        found = [(f.shape[1], batch.shape[-1] // f.shape[-1]) for f in extractor(batch)]
        declared = list(zip(extractor.feature_info.channels(), extractor.feature_info.reduction(), strict=True))
        assert found == declared

    def test_features_only_gives_the_named_modules_outputs(self, name, batch):
        """A level of the feature extractor is the output of the module that feature_info names."""
        extractor = timm.create_model(name, features_only=True).eval()
        outputs = []
        for path in extractor.feature_info.module_name():
            extractor.get_submodule(path).register_forward_hook(lambda _module, _input, output: outputs.append(output))
        features = extractor(batch)
        assert len(outputs) == len(features) > 0
        assert all(torch.equal(feature, output) for feature, output in zip(features, outputs, strict=True))

    def test_every_parameter_is_in_one_layer_group(self, net):
        """group_matcher covers all parameters."""
        groups = group_parameters(net, net.group_matcher())
        assert sorted(name for group in groups.values() for name in group) == sorted(dict(net.named_parameters()))

    def test_layer_decay_slows_early_layers(self, net):
        """With layer-wise decay the first layer learns slowest and the classifier at the full rate."""
        groups = param_groups_layer_decay(net, layer_decay=0.5)
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        scales = [scale[id(p)] for p in net.parameters()]
        assert scales == sorted(scales)
        assert scales[0] < scales[-1] == 1.0

    def test_grad_checkpointing_keeps_the_gradients(self, net, batch):
        """Recomputing the stages gives the same gradients, and does recompute."""
        net.train()
        net(batch).sum().backward()
        expected = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        net.set_grad_checkpointing()
        first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        calls = []
        first.register_forward_hook(lambda *_: calls.append(1))
        net(batch).sum().backward()
        assert len(calls) == 2
        for actual, wanted in zip([p.grad for p in net.parameters()], expected, strict=True):
            torch.testing.assert_close(actual, wanted)

    def test_every_leaf_is_called_once_and_not_in_place(self, net, batch):
        """A module path names one tensor, and no later layer changes it."""
        seen = []
        leaves = {path: module for path, module in net.named_modules() if not list(module.children())}
        for path, module in leaves.items():
            module.register_forward_hook(
                lambda _module, _input, output, path=path: seen.append((path, output, output.clone()))
            )
        net(batch)
        assert sorted(path for path, _, _ in seen) == sorted(leaves)
        assert [path for path, output, clone in seen if not torch.equal(output, clone)] == []

    def test_config_names_its_first_and_last_layer(self, net):
        """pretrained_cfg, which is default_cfg too, names real modules and the catalog's own figures."""
        cfg = net.pretrained_cfg
        assert net.default_cfg == cfg
        assert isinstance(net.get_submodule(cfg["first_conv"]), nn.Conv2d)
        assert net.get_submodule(cfg["classifier"]) is net.get_classifier()

    def test_catalog_agrees_with_timm(self, net, name):
        """The catalog's table and timm's config say the same of input and classes."""
        entry = CATALOG[name]
        assert (tuple(net.pretrained_cfg["input_size"]), net.num_classes) == (entry.input_size, entry.num_classes)

    def test_timm_knows_the_net(self, name):
        """Importing zoo's nets registers them with timm."""
        assert name in timm.list_models(name)


class TestConvNet4:
    """What ConvNet4 alone promises."""

    def test_has_65834_parameters(self):
        """At 1 channel and 10 classes, as counted by hand."""
        by_hand = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 32 + 64 + 64) + 64 * 10 + 10
        actual = sum(p.numel() for p in nets.ConvNet4().parameters())
        assert (actual, by_hand) == (65_834, 65_834)

    @pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 8), (33, 17)])
    def test_takes_any_size_from_two(self, size):
        """Odd and unequal sizes too."""
        assert nets.ConvNet4().eval()(torch.zeros(1, 1, *size)).shape == (1, 10)

    def test_module_paths_are_these(self):
        """The paths are what users ask a server for, so they do not change by accident."""
        body = ["conv1", "bn1", "act1", "conv2", "bn2", "act2", "pool", "conv3", "bn3", "act3", "conv4", "bn4", "act4"]
        head = ["head.global_pool.pool", "head.global_pool.flatten", "head.drop", "head.fc", "head.flatten"]
        leaves = [path for path, module in nets.ConvNet4().named_modules() if not list(module.children())]
        assert leaves == body + head

    def test_learns_from_every_parameter(self):
        """A step of gradient reaches all of them."""
        net = nets.ConvNet4()
        net(torch.randn(4, 1, 8, 8)).logsumexp(1).sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
