"""New heads for backbones."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from export.convert.convert import convert
from export.interface.interface import one_input
from zoo.catalog import create_model
from zoo.errors import SettingsError
from zoo.networks.preprocessing import Preprocessing
from zoo.transfer.heads import attach_head, feature_map

HEADS = ["linear", "mlp", "conv1x1", "attention", "flat"]
# Feature maps, tokens, tokens with a class token, channels last, layers between pool and classifier, the catalog.
BACKBONES = [
    "test_resnet",
    "test_convnext",
    "test_vit",
    "test_vit2",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "convnet4",
]


def backbone(name):
    """Return a small backbone for 64x64 pixels."""
    torch.manual_seed(0)
    if name.startswith("swin"):
        size = {"pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}
        return timm.create_model(name, window_size=2, embed_dim=12, depths=(1, 1), num_heads=(1, 2), **size)
    return create_model(name, img_size=(64, 64))


def images(network, count=2):
    """Return random images of the network's input size."""
    return torch.randn(
        count, *Preprocessing.from_network(network).input_size, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_any_head_fits_any_backbone(name, head):
    """The output has five classes; all parameters of the head and the backbone's first layer get gradients."""
    network = attach_head(backbone(name), head, num_classes=5).train()
    logits = network(images(network))
    logits.logsumexp(1).sum().backward()
    assert (logits.shape, network.num_classes) == ((2, 5), 5)
    assert [path for path, p in network.head.named_parameters() if p.grad is None] == []
    assert next(network.backbone.parameters()).grad is not None


@pytest.mark.parametrize("name", BACKBONES)
def test_a_linear_head_with_the_old_weights_equals_the_original(name):
    """Only the classifier is removed from the backbone; the width before it is not always num_features."""
    network = backbone(name).eval()
    x, classifier = images(network), network.get_classifier()
    expected = network(x)
    headed = attach_head(network, "linear", num_classes=network.num_classes).eval()
    if isinstance(classifier, nn.Linear):
        headed.get_classifier().load_state_dict(classifier.state_dict())
    torch.testing.assert_close(headed(x), expected)


def test_a_conv1x1_head_averages_its_scores():
    """On a backbone with average pooling a conv1x1 head equals a linear head with the same weights."""
    network = backbone("test_resnet").eval()
    x, classifier = images(network), network.get_classifier()
    expected = network(x)
    headed = attach_head(network, "conv1x1", num_classes=network.num_classes).eval()
    headed.get_classifier().load_state_dict({"weight": classifier.weight[:, :, None, None], "bias": classifier.bias})
    torch.testing.assert_close(headed(x), expected, rtol=1e-3, atol=1e-5)


def test_an_attention_head_weights_positions():
    """Equal scores select the mean of all positions, one high score selects its position."""
    head = attach_head(backbone("convnet4"), "attention", num_classes=3).head.eval()
    x = torch.randn(2, 64, 4, 4)
    head.score.weight.weight.data.zero_()
    torch.testing.assert_close(head(x), head.fc(x.mean(dim=(2, 3))))
    head.score.hidden.weight.data.zero_()
    head.score.hidden.weight.data[0, 0] = 1
    head.score.weight.weight.data[0, 0] = 200
    x[:, 0] = -1
    x[:, 0, 2, 1] = 1
    torch.testing.assert_close(head(x), head.fc(x[:, :, 2, 1]))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_feature_map_has_channels_first(name):
    """Any backbone's features become (N, C, H, W), or (N, C, tokens, 1) without the class token."""
    network = backbone(name).eval()
    features = feature_map(network, network.forward_features(images(network)))
    positions = features.shape[2] * features.shape[3]
    side = int(positions**0.5)
    assert (features.shape[:2], side * side) == ((2, network.num_features), positions)


@pytest.mark.parametrize("head", HEADS)
def test_dropout_is_in_the_head(head):
    """The head's dropout is active in training mode only."""
    network = attach_head(backbone("test_resnet"), head, num_classes=4, drop_rate=0.5)
    drops = [m for m in network.head.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert [drop.p for drop in drops] == [0.5]
    x = images(network)
    network.backbone.eval()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(("name", "head"), [("convnet4", "attention"), ("test_vit", "conv1x1")])
def test_a_headed_network_exports(name, head):
    """The ONNX model has a dynamic batch size."""
    network = attach_head(backbone(name), head, num_classes=4).eval().requires_grad_(False)
    model = convert(network, one_input(tuple(images(network).shape[1:])), opset=20)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = images(network, count)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], network(x).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "head", "message"),
    [
        ("mlp", "conv1x1", "head 'conv1x1' requires a feature map; Mlp produces a vector of 64: choose linear or mlp"),
        ("lenet5", "attention", "head 'attention' requires a feature map; LeNet5 produces a vector of 84"),
        ("convnet4", "cosine", "head must be one of linear, mlp, conv1x1, attention, flat; got 'cosine'"),
    ],
)
def test_a_head_that_does_not_fit_is_rejected(network, head, message):
    """The message names the heads that fit."""
    with pytest.raises(SettingsError, match=message):
        attach_head(create_model(network), head, num_classes=3)


def test_a_network_without_features_is_rejected():
    """The message names the missing methods of timm's interface."""
    with pytest.raises(
        SettingsError, match=r"Sequential does not have timm's model interface, .*: it lacks forward_features"
    ):
        attach_head(nn.Sequential(nn.Linear(2, 2)), "linear", num_classes=3)


@pytest.mark.parametrize(("num_classes", "drop_rate"), [(0, 0.0), (3, 1.0)])
def test_values_out_of_range_are_rejected(num_classes, drop_rate):
    """Zero classes and a dropout probability of 1 are errors."""
    with pytest.raises(SettingsError, match=f"1 class or more and a drop_rate .*; got {num_classes} and {drop_rate}"):
        attach_head(create_model("convnet4"), "linear", num_classes, drop_rate)
