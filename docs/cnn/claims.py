"""The claims of the lecture notes, each with a verdict and the commands or code that compute it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim and its verification.

    Attributes:
        title: Heading of its section.
        notes: What the lecture notes claim, in Markdown.
        verdict: Whether that is right, in Markdown.
        commands: Arguments of `zoonnx`, run for the page.
        code: Python that prints a result, run for the page.
    """

    title: str
    notes: str
    verdict: str
    commands: tuple[str, ...] = ()
    code: str = ""


CLAIMS = (
    Claim(
        "Weights of a layer",
        "A 224x224x3 image has 150,528 values, so 10 classes require 1,505,280 weights; [3,5,5] to 3 neurons requires "
        "225; one 5x5x3 filter has 75 weights and 1 bias, and 5 filters produce a depth of 5; a layer has "
        "F\\*F\\*Di\\*K + K parameters.",
        "Right; the first two figures do not include biases.",
        (
            "compare --layers 3,224,224 --to 10 --kernel 224 --padding valid",
            "compare --layers 3,5,5 --to 3 --kernel 5 --padding valid",
            "compare --layers 3,32,32 --to 5 --kernel 5 --padding valid",
        ),
    ),
    Claim(
        "Fully connected layers on large images",
        "1000x1000 images require 3 billion weights, 200x200 grey images to 40,000 units about 2 billion, 32x32 images "
        "14 million, and 200x200x3 images to 1000 units 12 million.",
        "3 billion is right for 1,000 units; the second is 1.6 billion; the third is right only for 3,072 values to "
        "4,704 units, which is 14,450,688; the last is wrong: 120 million.",
        (
            "compare --layers 3,1000,1000 --to 1000 --kernel 1000 --padding valid",
            "compare --layers 1,200,200 --to 1 --kernel 3",
            "compare --layers 3,32,32 --to 6 --kernel 5 --padding valid",
            "compare --layers 3,200,200 --to 1000 --kernel 200 --padding valid",
        ),
    ),
    Claim(
        "Neighbours only, then shared weights",
        "Connecting only neighbours requires O(n) weights instead of O(n^2); sharing them requires O(1), for any size.",
        "Right for parameters: with four times the pixels the fully connected layer has 16 times, the locally "
        "connected layer 4 times as many.",
        ("compare --layers 1,8,8 --to 8 --kernel 3", "compare --layers 1,16,16 --to 8 --kernel 3"),
    ),
    Claim(
        "Sharing and the forward pass",
        "Sharing the weights does not shorten the forward pass.",
        "Right in comparison with a locally connected layer, wrong in comparison with a fully connected one: see the "
        "MACs above.",
        ("compare --layers 3,32,32 --to 16 --kernel 3",),
    ),
    Claim(
        "Which operation it is",
        "f\\*w = sum of f(i) w(i+j), and with w(i-j) for convolution; worked results for (2,-1)\\*(1,2) and "
        "(2,-1,1)\\*(1,2,1).",
        "Both indices and both results are wrong. Cross-correlation, which libraries compute, is the sum over j of "
        "f(i+j) w(j); convolution is the sum over j of f(i-j) w(j), which flips the kernel and is commutative. The "
        "results are [2, 3, -2] and [2, 3, 1, 1, 1].",
        code="""import torch
from zoo.layers import TrueConv1d

for f, w in (((2.0, -1.0), (1.0, 2.0)), ((2.0, -1.0, 1.0), (1.0, 2.0, 1.0))):
    layer = TrueConv1d(1, 1, len(w), padding=len(w) - 1, bias=False)
    layer.weight.data[:] = torch.tensor(w)
    print(layer(torch.tensor([[f]])).flatten().tolist())""",
    ),
    Claim(
        "Output sizes and strides",
        "The size is (N + 2P - F)/S + 1; fractions are illegal, so check the stride. One note rounds down, one omits "
        "S.",
        "Libraries round down and ignore the rest: with r = (N + 2P - D(F-1) - 1) mod S, nothing for r = 0, only "
        "padding for r <= P, otherwise r - P rows. Ignored rows are an error in networks of the catalog; in timm's "
        "they are reported.",
        ("describe convnet4 --input-size 1,7,7", "describe resnet18 --depth 0", "describe lenet5"),
    ),
    Claim(
        "Padding",
        "Valid padding adds nothing; same padding adds P = (F-1)/2.",
        "The latter holds only for odd windows and stride 1; anything else is rejected.",
        ("compare --layers 1,8,8 --kernel 5 --padding same", "compare --layers 1,8,8 --kernel 4 --padding same"),
    ),
    Claim(
        "Pools",
        "Pools follow convolutions directly and have trainable parameters; fully connected layers come at the end.",
        "A pool usually follows normalisation and activation, and has no parameters.",
        ("describe convnet4",),
    ),
    Claim(
        "Depth, 1x1 convolutions, stacks",
        "A filter is as deep as its input; 1x1 convolutions compress channels; stacked layers see more of the image.",
        "Right unless the convolution is grouped; in the depthwise network (g: groups) a filter has a depth of 1.",
        ("describe bottleneck4", "describe mobilenet_tiny --depth 2"),
    ),
    Claim(
        "Batch normalisation",
        "It normalises each channel.",
        "Right: it has 2 parameters per channel, and no cost once an export has folded it into the convolution "
        "(`zoonnx describe models/NAME` shows into which). Here bn1 has 64 parameters for 32 channels.",
        ("describe convnet4 --depth 1",),
    ),
    Claim(
        "Sequences",
        "Convolution also applies to sequences: words in different positions, periodic signals.",
        "Right, with the same layers in one dimension.",
        ("describe signal1d",),
    ),
    Claim(
        "The gradient of a shared weight",
        "It is the sum of the gradients at all positions.",
        "Right.",
        code="""import torch
from zoo.layers import LocallyConnected1d

x = torch.arange(8.0).reshape(1, 1, 8)
shared = torch.nn.Conv1d(1, 1, 3, bias=False)
own = LocallyConnected1d(1, 1, 3, input_size=8, bias=False)
own.weight.data[:] = shared.weight.data.reshape(1, 3, 1)
for layer in (shared, own):
    (layer(x) ** 2).sum().backward()
print(torch.allclose(own.weight.grad.sum(0).flatten(), shared.weight.grad.flatten()))""",
    ),
    Claim(
        "Locally connected",
        "Convolutional layers are sometimes called locally connected.",
        "Wrong: locally connected layers have windows whose weights are not shared. Here the two are separate layers.",
        ("describe localnet --depth 1",),
    ),
    Claim(
        "Transformers",
        "Transformers use ResNet.",
        "They use its residual connections. Attention covers the whole image in every layer, while the receptive "
        "field of a residual network grows with its depth.",
        ("compare resnet20 resnet18 vit_tiny_patch16_224",),
    ),
    Claim(
        "Translation",
        "Convolutional networks are translation invariant.",
        "A convolution is equivariant: its response shifts with the image. Strides and pools break this for shifts "
        "that are not multiples of their stride (after a 2x2 max pool, a shift by 1 pixel changes most of the "
        'response, a shift by 2 nothing); a blur before the stride (`BlurPool2d`, `pool="blur"`) reduces the effect.',
        code="""import torch
from zoo import load_network
from zoo.insight.shifts import shift_error

network = load_network("convnet4", seed=1).network
images = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
for layer in ("act2", "pool"):
    print(layer, [f"{shift_error(network, layer, images, shift):.0%}" for shift in (1, 2, 3, 4)])""",
    ),
    Claim(
        "Dropout",
        "Dropout drops units; spatial dropout drops whole channels.",
        "Right.",
        code="""import torch

torch.manual_seed(0)
ones = torch.ones(1, 64, 4, 4)
for drop in (torch.nn.Dropout(0.5), torch.nn.Dropout2d(0.5)):
    dropped_share = (drop(ones) == 0).flatten(2).float().mean(2)
    whole_channels = bool(((dropped_share == 0) | (dropped_share == 1)).all())
    print(type(drop).__name__, "drops whole channels:", whole_channels)""",
    ),
    Claim(
        "Training",
        "Networks are trained by gradient descent or Adam.",
        "Right; timm has these and many more, and `zoonnx train --optimizer` accepts each by name.",
        code="""from timm.optim import list_optimizers

print({"sgd", "adam", "adamw"} <= set(list_optimizers()))""",
    ),
    Claim(
        "Transfer learning",
        "A network trained on many images can classify other classes with a new last layer.",
        "Right: any backbone of timm can have a new head (`zoonnx tune`).",
        code="""from typing import get_args

import torch
from zoo import create_model
from zoo.transfer.heads import attach_head
from zoo.settings import Head

for head in get_args(Head):
    network = attach_head(create_model("test_resnet"), head, num_classes=5).eval()
    print(head, tuple(network(torch.zeros(1, 3, 160, 160)).shape))""",
    ),
    Claim(
        "Looking at filters",
        "Only the first layer's filters can be visualised.",
        "Right for the weights themselves; the patches of real images with the strongest response visualise deeper "
        "units.",
        code="""from zoo import load_dataset, load_network
from zoo.insight.filters import filter_image
from zoo.insight.patches import strongest_patches

loaded, digits = load_network("convnet4", seed=1), load_dataset("digits")
print("32 filters on an image of", filter_image(loaded.network).size)
images = loaded.preprocessing.normalise(digits.test.images)
for patch in strongest_patches(loaded.network, "act2", channel=0, x=images, count=3):
    print(f"image {patch.index}, rows {patch.rows.start} to {patch.rows.stop - 1}, ", end="")
    print(f"columns {patch.columns.start} to {patch.columns.stop - 1}")""",
    ),
    Claim(
        "The input of a neuron",
        "Backpropagation finds the part of the image that a neuron responds to.",
        "Right: it is the gradient of the unit, which is zero outside the receptive field that `describe` computes.",
        code="""import torch
from zoo import load_network
from zoo.insight.saliency import saliency

network = load_network("convnet4", seed=1).network
image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
gradient = saliency(network, "act4", image, channel=3, place=(7, 8))[0, 0]
rows, columns = (gradient.abs().sum(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
print(f"rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}: 14 by 14 pixels")""",
    ),
    Claim(
        "An image that maximises a neuron",
        "Gradient ascent on the image: argmax f(I) + R(I), from zeros or an image.",
        "R must be a penalty, hence f(I) - R(I). At zeros a ReLU network without biases has no gradient, so the ascent "
        "here starts from weak noise, with both penalties enabled by default.",
        code="""import torch
from zoo.insight.ascent import AscentSettings, ascend
from zoo.insight.saliency import saliency

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.ReLU()).eval()
print("gradient at zeros:", float(saliency(network, "1", torch.zeros(1, 1, 8, 8), channel=0).abs().sum()))
for settings in (AscentSettings(l2=0, variation=0), AscentSettings()):
    image = ascend(network, "1", 0, (1, 8, 8), settings)
    small = bool(image.abs().max() < 3)
    print(f"penalties {settings.l2:g} and {settings.variation:g}: every pixel is under 3:", small)""",
    ),
)
