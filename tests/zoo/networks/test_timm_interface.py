"""timm's model interface and ONNX export, for every network of the catalog."""

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from export.convert.convert import convert
from export.interface.interface import one_input
from zoo.catalog import CATALOG, create_model
from zoo.errors import SettingsError
from zoo.networks.preprocessing import Preprocessing

VECTOR_FEATURES = {"mlp", "localnet", "lenet5"}  # no feature map at the end, hence no global pool
SLOW_TO_EXPORT = {"resnet20", "resnet56"}


@pytest.fixture(params=CATALOG)
def name(request):
    """Return the name of each network of the catalog."""
    return request.param


@pytest.fixture
def network(name):
    """Return the network with default options in eval mode, with BatchNorm statistics of random data."""
    torch.manual_seed(0)
    network = create_model(name)
    with torch.no_grad():
        for _ in range(3):
            network.train()(images(name, 8))
    return network.eval()


def images(name, count):
    """Return random inputs of the network's default size."""
    return torch.randn(count, *CATALOG[name].input_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(name):
    """Return three random inputs."""
    return images(name, 3)


class TestInterface:
    """timm's model interface."""

    def test_output_shape(self, network, batch, name):
        """The output has one row per image and one column per class."""
        assert network(batch).shape == (3, CATALOG[name].num_classes)

    def test_images_do_not_influence_each_other(self, network, batch):
        """An image has the same logits alone and in a batch."""
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), rtol=1e-3, atol=1e-5)

    def test_head_after_features_is_forward(self, network, batch):
        """forward equals forward_features followed by forward_head."""
        assert torch.equal(network.forward_head(network.forward_features(batch)), network(batch))

    def test_feature_width_is_as_declared(self, network, batch):
        """num_features is the number of feature channels, head_hidden_size the width of the classifier's input."""
        features = network.forward_features(batch)
        pre_logits = network.forward_head(features, pre_logits=True)
        assert (features.shape[1], pre_logits.shape) == (network.num_features, (3, network.head_hidden_size))

    def test_classifier_maps_pre_logits_to_logits(self, network, batch):
        """get_classifier returns the last layer."""
        pre_logits = network.forward_head(network.forward_features(batch), pre_logits=True)
        assert torch.equal(network.get_classifier()(pre_logits), network(batch))

    def test_reset_classifier_changes_the_number_of_classes(self, network, batch):
        """Both `num_classes` and the output have the new number."""
        network.reset_classifier(7)
        assert (network.num_classes, network(batch).shape) == (7, (3, 7))

    @pytest.mark.parametrize("at_build", [True, False])
    def test_zero_classes_return_features(self, network, batch, name, at_build):
        """Without classes the network has no classifier."""
        if at_build:
            network = create_model(name, num_classes=0).eval()
        else:
            network.reset_classifier(0)
        assert network(batch).shape == (3, network.head_hidden_size)

    def test_reset_classifier_changes_the_pool(self, network, batch, name):
        """Another global pool returns other features of the same shape; a network without one rejects it."""
        if name in VECTOR_FEATURES:
            with pytest.raises(SettingsError, match="has no global pool; got 'max'"):
                network.reset_classifier(network.num_classes, global_pool="max")
            return
        averaged = network.forward_head(network.forward_features(batch), pre_logits=True)
        network.reset_classifier(network.num_classes, global_pool="max")
        highest = network.forward_head(network.forward_features(batch), pre_logits=True)
        assert bool((highest >= averaged).all())
        assert not torch.equal(highest, averaged)

    @pytest.mark.parametrize(("num_classes", "in_chans"), [(1, 1), (3, 4), (1000, 3)])
    def test_accepts_any_classes_and_channels(self, name, num_classes, in_chans):
        """num_classes and in_chans change the output, the input and the data config."""
        network = create_model(name, num_classes=num_classes, in_chans=in_chans).eval()
        size = CATALOG[name].input_size[1:]
        assert network(torch.zeros(2, in_chans, *size)).shape == (2, num_classes)
        assert Preprocessing.from_network(network).input_size == (in_chans, *size)

    def test_accepts_another_size(self, name):
        """A network accepts twice its default size as img_size, and its data config has it."""
        _, height, width = CATALOG[name].input_size
        size = (height if height == 1 else 2 * height, 2 * width)
        network = create_model(name, img_size=size).eval()
        assert network(torch.zeros(1, network.in_chans, *size)).shape == (1, network.num_classes)
        assert Preprocessing.from_network(network).input_size[1:] == size

    def test_drop_rate_reaches_the_head(self, name):
        """The head's dropout has the requested probability."""
        assert create_model(name, drop_rate=0.25).head.drop.p == 0.25

    def test_features_only_matches_feature_info(self, name, batch):
        """timm's feature extractor returns each declared level, with its channels and its stride."""
        if name == "mlp":
            assert create_model(name).feature_info == []
            return
        extractor = timm.create_model(name, features_only=True).eval()
        features, width = extractor(batch), batch.shape[-1]
        info = extractor.feature_info
        assert [feature.shape[1] for feature in features] == info.channels()
        for feature, reduction in zip(features, info.reduction(), strict=True):
            # Less than width / reduction only where a convolution is not padded.
            assert width / reduction / 2 < feature.shape[-1] <= width / reduction

    def test_features_only_returns_the_named_modules_outputs(self, name, batch):
        """A level of the feature extractor is the output of the module that feature_info names."""
        if name == "mlp":
            pytest.skip("no feature maps")
        extractor = timm.create_model(name, features_only=True).eval()
        outputs = []
        for path in extractor.feature_info.module_name():
            extractor.get_submodule(path).register_forward_hook(lambda _module, _input, output: outputs.append(output))
        features = extractor(batch)
        assert len(outputs) == len(features) > 0
        assert all(torch.equal(feature, output) for feature, output in zip(features, outputs, strict=True))

    def test_every_parameter_is_in_one_layer_group(self, network):
        """group_matcher covers all parameters and separates at least three layers."""
        groups = group_parameters(network, network.group_matcher())
        assert sorted(name for group in groups.values() for name in group) == sorted(dict(network.named_parameters()))
        assert len(groups) >= 3

    def test_layer_decay_slows_early_layers(self, network):
        """With layer-wise decay the first layer has the lowest learning rate and the classifier the full one."""
        groups = param_groups_layer_decay(network, layer_decay=0.5)
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        scales = [scale[id(p)] for p in network.parameters()]
        assert scales == sorted(scales)
        assert scales[0] < scales[-1] == 1.0

    def test_grad_checkpointing_keeps_the_gradients(self, network, batch):
        """Gradient checkpointing runs layers again and computes the same gradients."""
        network.train()
        network(batch).sum().backward()
        expected = [p.grad.clone() for p in network.parameters()]
        network.zero_grad()
        network.set_grad_checkpointing()
        calls = []
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda module, *_: calls.append(module))
        network(batch).sum().backward()
        assert len(calls) > len(set(calls))
        for parameter, gradient in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)

    def test_every_parameter_gets_a_gradient(self, network, batch):
        """The loss depends on all parameters."""
        network.train()(batch).logsumexp(1).sum().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None] == []

    def test_every_leaf_is_called_once_and_not_in_place(self, network, batch):
        """A module path names one tensor, and no later layer modifies it."""
        outputs = []
        leaves = {path: module for path, module in network.named_modules() if not list(module.children())}
        for path, module in leaves.items():
            module.register_forward_hook(
                lambda _module, _input, output, path=path: outputs.append((path, output, output.clone()))
            )
        network(batch)
        assert sorted(path for path, _, _ in outputs) == sorted(leaves)
        assert [path for path, output, clone in outputs if not torch.equal(output, clone)] == []

    def test_config_names_its_first_and_last_layer(self, network):
        """`first_conv` is the first layer with weights, or None if that is no convolution; `classifier` is the last."""
        cfg = network.pretrained_cfg
        assert network.default_cfg == cfg
        first = next(module for module in network.modules() if list(module.parameters(recurse=False)))
        expected = first if isinstance(first, nn.Conv1d | nn.Conv2d) else None
        assert (cfg["first_conv"] and network.get_submodule(cfg["first_conv"])) is expected
        assert network.get_submodule(cfg["classifier"]) is network.get_classifier()

    def test_catalog_agrees_with_timm(self, network, name):
        """The catalog and timm's config have the same input size, number of classes and fixed size."""
        entry, cfg = CATALOG[name], timm.get_pretrained_cfg(name)
        assert (tuple(cfg.input_size), network.num_classes) == (entry.input_size, entry.num_classes)
        assert cfg.fixed_input_size == entry.fixed_input_size

    def test_is_registered_with_timm(self, network, name):
        """Importing zoo.networks registers its networks with timm, and timm has no other network of that name."""
        assert name in timm.list_models(name)
        assert type(network).__module__.startswith("zoo.networks.")
        assert timm.models.model_entrypoint(name).__module__ == type(network).__module__

    def test_state_survives_safetensors(self, network, batch, name, tmp_path):
        """Saved weights produce the same logits in a network with other initial weights."""
        file = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(network.state_dict(), file)
        torch.manual_seed(7)
        other = create_model(name).eval()
        other.load_state_dict(safetensors.torch.load_file(file))
        assert torch.equal(other(batch), network(batch))

    def test_onnx_matches_pytorch_at_any_batch_size(self, network, name):
        """onnxruntime and PyTorch agree on one image and on three."""
        if name in SLOW_TO_EXPORT:
            pytest.skip("same structure as resnet8, but several times slower")
        model = convert(network.requires_grad_(False), one_input(CATALOG[name].input_size), opset=20)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for count in (1, 3):
            x = images(name, count)
            expected = network(x).numpy()
            actual = session.run(None, {"x": x.numpy()})[0]
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
