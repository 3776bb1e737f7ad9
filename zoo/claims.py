"""The claims of the lecture notes, and what computes the answer to each; notes.py makes a page of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One claim. `commands` are of the `zoonnx` command line, `code` is Python that prints; both are run."""

    title: str
    notes: str
    verdict: str
    commands: tuple[str, ...] = ()
    code: str = ""


ROWS = (
    Row(
        "Weights of a layer",
        "A 224x224x3 image is 150,528 numbers, so 10 classes take 1,505,280 weights; [3,5,5] to 3 neurons takes 225; "
        "one 5x5x3 filter has 75 weights and 1 bias, and 5 filters give a depth of 5; a layer has F\\*F\\*Di\\*K + K "
        "parameters.",
        "Right, the first two without their biases.",
        (
            "compare --layers 3,224,224 --to 10 --kernel 224 --padding valid",
            "compare --layers 3,5,5 --to 3 --kernel 5 --padding valid",
            "compare --layers 3,32,32 --to 5 --kernel 5 --padding valid",
        ),
    ),
    Row(
        "Fully connected layers on large images",
        "1000x1000 images take 3 billion weights; 200x200 grey to 40,000 units about 2 billion; 32x32 takes 14 million;"
        " 200x200x3 to 1000 units takes 12 million.",
        "3 billion holds for 1,000 units; the second is 1.6 billion; the third holds only for 3,072 numbers to 4,704, "
        "which is 14,450,688; the last is wrong: 120 million.",
        (
            "compare --layers 3,1000,1000 --to 1000 --kernel 1000 --padding valid",
            "compare --layers 1,200,200 --to 1 --kernel 3",
            "compare --layers 3,32,32 --to 6 --kernel 5 --padding valid",
            "compare --layers 3,200,200 --to 1000 --kernel 200 --padding valid",
        ),
    ),
    Row(
        "Neighbours only, then shared weights",
        "Connecting neighbours only takes O(n) weights instead of O(n^2); sharing them takes O(1), whatever the size.",
        "Right, for parameters: four times the pixels make the full layer 16 times as large, the local one 4 times.",
        ("compare --layers 1,8,8 --to 8 --kernel 3", "compare --layers 1,16,16 --to 8 --kernel 3"),
    ),
    Row(
        "Sharing and the forward pass",
        "Sharing the weights does not shorten the forward pass.",
        "True against a locally connected layer, false against a fully connected one: compare the MACs above.",
        ("compare --layers 3,32,32 --to 16 --kernel 3",),
    ),
    Row(
        "Which operation it is",
        "f\\*w = sum of f(i) w(i+j), and with w(i-j) for convolution; worked results for (2,-1)\\*(1,2) and "
        "(2,-1,1)\\*(1,2,1).",
        "Both indices and both results are wrong. Cross-correlation, which libraries compute, is the sum over j of "
        "f(i+j) w(j); convolution is the sum of f(i-j) w(j), flips the kernel, and commutes. The results are "
        "[2, 3, -2] and [2, 3, 1, 1, 1].",
        code="""import torch
from zoo.layers import TrueConv1d

for f, w in (((2.0, -1.0), (1.0, 2.0)), ((2.0, -1.0, 1.0), (1.0, 2.0, 1.0))):
    layer = TrueConv1d(1, 1, len(w), padding=len(w) - 1, bias=False)
    layer.weight.data[:] = torch.tensor(w)
    print(layer(torch.tensor([[f]])).flatten().tolist())""",
    ),
    Row(
        "Output sizes and strides",
        "The size is (N + 2P - F)/S + 1; fractions are illegal, so check the stride. One note rounds down, one "
        "forgets S.",
        "Libraries round down, and what is left over is not looked at: with r = (N + 2P - D(F-1) - 1) mod S, nothing "
        "for r = 0, only padding for r <= P, else r - P rows. In nets of this catalog that is an error, in backbones a "
        "finding.",
        ("describe convnet4 --input-size 1,7,7", "describe resnet18 --depth 0", "describe lenet5"),
    ),
    Row(
        "Padding",
        "Valid padding adds nothing; same padding adds P = (F-1)/2.",
        "The latter holds only for odd windows and a stride of 1; anything else is refused.",
        ("compare --layers 1,8,8 --kernel 5 --padding same", "compare --layers 1,8,8 --kernel 4 --padding same"),
    ),
    Row(
        "Pools",
        "Pools follow convolutions directly, and have parameters to learn; fully connected layers come at the end.",
        "A pool usually follows norm and activation, and it has 0 parameters.",
        ("describe convnet4",),
    ),
    Row(
        "Depth, 1x1 convolutions, stacks",
        "A filter is as deep as its input; 1x1 convolutions compress channels; stacked layers see more of the image.",
        "Right where the convolution is not grouped; in the depthwise net (g: groups) a filter has a depth of 1.",
        ("describe bottleneck4", "describe mobilenet_tiny --depth 2"),
    ),
    Row(
        "Batch normalisation",
        "It normalises each channel.",
        "Right: 2 parameters a channel, and no work of its own once an export has folded it into the convolution "
        "(`zoonnx describe models/NAME` shows into which). Here bn1 has 64 for 32 channels.",
        ("describe convnet4 --depth 1",),
    ),
    Row(
        "Sequences",
        "Convolution also serves sequences: words in different positions, signals that repeat.",
        "Right: the same layers in one dimension.",
        ("describe signal1d",),
    ),
    Row(
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
    Row(
        "Locally connected",
        "Convolutional layers are sometimes called locally connected.",
        "Wrong: that name means windows whose weights are not shared. They are two separate layers here.",
        ("describe localnet --depth 1",),
    ),
    Row(
        "Transformers",
        "Transformers use ResNet.",
        "They use its residual connections. Attention looks at the whole image at once, a residual net grows into it.",
        ("compare resnet20 resnet18 vit_tiny_patch16_224",),
    ),
)
