"""Small networks whose layers are hard to name from a graph: reuse, arithmetic in containers, several outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = Callable[[], nn.Module]
SHAPE = (2, 4, 8, 8)  # of the input of every network


def conv(kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, padding=kernel // 2, **options)


def norm() -> nn.BatchNorm2d:
    """Return a norm that changes its input."""
    module = nn.BatchNorm2d(4)
    module.running_mean = torch.linspace(-1, 1, 4)
    module.running_var = torch.linspace(0.5, 2, 4)
    nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.uniform_(module.bias, -1, 1)
    return module


class Wrapped(nn.Module):
    """A network whose forward is a function of the module and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Scaled(nn.Sequential):
    """A container that does arithmetic after its children."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * 2 + 1


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x + super().forward(x)


class BasicBlock(nn.Module):
    """torchvision's residual block, which calls its activation twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(3, bias=False), norm(), nn.ReLU()
        self.conv2, self.bn2 = conv(3, bias=False), norm()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Pair(nn.Module):
    """Returns two tensors, as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


class Named(Pair):
    """Returns two tensors by name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"a": self.a(x), "b": self.b(x)}


class Features(nn.Module):
    """Returns the list of its children's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3), nn.ReLU(), conv(3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class MaybeActivated(nn.Module):
    """Computes something else in its last call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, *, last: bool = False) -> Tensor:
        x = self.conv(x)
        return x if last else torch.relu(x)


class Remembering(nn.Module):
    """Returns its input, and keeps a value that its parent reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.kept = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.conv(x)
        return x


class Attention(nn.Module):
    """Self-attention over the places of the image, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj((q @ k.transpose(-2, -1)).softmax(dim=-1) @ v)


class Cell(nn.Module):
    """A recurrent cell, whose first state is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state = nn.Linear(4, 6), nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(self.input(x) + self.state(state))


def stem_of_three() -> nn.Module:
    return nn.Sequential(nn.Sequential(conv(3), nn.ReLU(), conv(3)), norm(), nn.ReLU(), conv())


def stem_before_norm_in_block() -> nn.Module:
    block = Wrapped(lambda m, x: m.act(m.bn(m.stem(x))), stem=nn.Sequential(conv(), nn.Sigmoid(), conv()), bn=norm())
    block.add_module("act", nn.ReLU())
    return nn.Sequential(block, conv())


def shared_activation() -> nn.Module:
    return Wrapped(lambda m, x: m.act(m.b(m.act(m.a(x)))), a=conv(), b=conv(), act=nn.ReLU())


def shared_activation_after_norms() -> nn.Module:
    return Wrapped(lambda m, x: m.act(m.n(m.b(m.act(m.a(x))))) + x, a=conv(), b=conv(), n=norm(), act=nn.ReLU())


def shared_conv_then_norm() -> nn.Module:
    return Wrapped(lambda m, x: m.c(torch.relu(m.n(m.c(x)))), c=conv(), n=norm())


def shared_norm() -> nn.Module:
    return Wrapped(lambda m, x: m.n(torch.relu(m.b(m.n(m.a(x))))), a=conv(), b=conv(), n=norm())


def loop_of_one_block() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = m.block(x)
        return m.head(x)

    return Wrapped(run, block=nn.Sequential(conv(), nn.Tanh()), head=conv())


def loop_of_one_layer() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = m.layer(x)
        return m.head(torch.relu(x))

    return Wrapped(run, layer=conv(), head=conv())


def loop_over_blocks() -> nn.Module:
    def stage(m: Any, x: Tensor) -> Tensor:
        for block in m.blocks:
            x = x + block(x)
        return x

    blocks = nn.ModuleList([nn.Sequential(conv(), nn.ReLU()), nn.Sequential(conv(), nn.ReLU()), conv()])
    return nn.Sequential(Wrapped(stage, blocks=blocks), conv())


def activation_twice_in_a_row() -> nn.Module:
    return Wrapped(lambda m, x: m.c(m.act(m.act(m.a(x)))), a=conv(), c=conv(), act=nn.Softplus())


def relu_twice_in_a_row() -> nn.Module:
    return Wrapped(lambda m, x: m.c(m.act(m.act(m.a(x)))), a=conv(), c=conv(), act=nn.ReLU())


def last_call_is_shorter() -> nn.Module:
    return Wrapped(lambda m, x: m.head(m.block(m.block(x), last=True)), block=MaybeActivated(), head=conv())


def first_call_is_shorter() -> nn.Module:
    return Wrapped(lambda m, x: m.head(m.block(m.block(x, last=True))), block=MaybeActivated(), head=conv())


def scaled_container() -> nn.Module:
    return nn.Sequential(Scaled(conv(), nn.ReLU()), Scaled(Scaled(conv())), conv())


def residual_containers() -> nn.Module:
    return nn.Sequential(Residual(conv(), nn.ReLU(), Residual(conv(), norm())), nn.ReLU(), conv())


def basic_blocks() -> nn.Module:
    return nn.Sequential(conv(), BasicBlock(), BasicBlock(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def identity_blocks() -> nn.Module:
    block = nn.Sequential(nn.Identity(), nn.Dropout())
    return nn.Sequential(conv(), block, nn.Sequential(conv(), nn.Identity()), nn.Dropout(), nn.ReLU(), block, conv())


def both_of_a_pair() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b = m.pair(x)
        return m.head(a * b)

    return Wrapped(run, pair=Pair(), head=conv())


def second_of_a_pair() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        _, b = m.pair(x)
        return m.head(torch.relu(b))

    return Wrapped(run, pair=Pair(), head=conv())


def indexed_pair() -> nn.Module:
    return Wrapped(lambda m, x: m.head(m.pair(x)[1].tanh()), pair=Pair(), head=conv())


def key_of_a_dict() -> nn.Module:
    return Wrapped(lambda m, x: m.head(m.named(x)["b"].tanh()), named=Named(), head=conv())


def stored_dict() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        outputs = m.named(x)
        return m.head(outputs["b"].tanh())

    return Wrapped(run, named=Named(), head=conv())


def outputs_as_dict() -> nn.Module:
    return Wrapped(lambda m, x: {"one": m.a(x), "two": m.named(x)}, a=conv(), named=Named())


def list_of_features() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        first, second, third = m.features(x)
        return m.head(first + second * third)

    return Wrapped(run, features=Features(), head=conv())


def last_of_a_list() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        features = m.features(x)
        return m.head(features[-1])

    return Wrapped(run, features=Features(), head=conv())


def remembered_value() -> nn.Module:
    return Wrapped(lambda m, x: m.head(m.memory(m.a(x)) + m.memory.kept), a=conv(), memory=Remembering(), head=conv())


def attention() -> nn.Module:
    return Wrapped(
        lambda m, x: m.head(x + m.attn(m.norm(x.flatten(2).transpose(1, 2))).transpose(1, 2).reshape(x.shape)),
        attn=Attention(),
        norm=nn.LayerNorm(4),
        head=conv(),
    )


def torch_attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        attended, _ = m.attn(tokens, tokens, tokens, need_weights=False)
        return m.head(m.norm(attended + tokens))

    attn = nn.MultiheadAttention(4, 2, batch_first=True)
    return Wrapped(run, attn=attn, norm=nn.LayerNorm(4), head=nn.Linear(4, 3))


def recurrent_cell() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for row in x.mean(3).unbind(2):
            state = m.cell(row, state)
        return m.head(state)

    return Wrapped(run, cell=Cell(), head=nn.Linear(6, 3))


def reshapes_across_modules() -> nn.Module:
    first = Wrapped(lambda m, x: m.act(x).reshape(x.shape[0], -1), act=nn.Sigmoid())
    second = Wrapped(lambda m, x: m.act(x.reshape(x.shape[0], 4, 64)), act=nn.Tanh())
    return nn.Sequential(conv(), first, second, nn.Linear(64, 3))


def transposes_across_modules() -> nn.Module:
    swap = Wrapped(lambda _m, x: x.transpose(1, 3))
    back = Wrapped(lambda m, x: m.act(x.transpose(1, 2)), act=nn.Sigmoid())
    return nn.Sequential(conv(), nn.ReLU(), swap, back, nn.Flatten(), nn.Linear(256, 3))


def swapped_twice() -> nn.Module:
    return Wrapped(lambda m, x: m.b(m.swap(m.swap(m.a(x)))), a=conv(), b=conv(), swap=Wrapped(lambda _, x: x.mT))


def module_in_two_places() -> nn.Module:
    shared = conv(3)
    first = Wrapped(lambda m, x: torch.relu(m.conv(x)), conv=shared)
    second = Wrapped(lambda m, x: torch.tanh(m.conv(x)), conv=shared)
    return nn.Sequential(first, second, conv())


def uncalled_containers() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.parts["norm"](m.parts["act"](m.parts["conv"](x))) + m.nest[0][1](m.nest[0][0](x))

    parts = nn.ModuleDict({"conv": conv(), "act": nn.ReLU(), "norm": norm()})
    return Wrapped(run, parts=parts, nest=nn.ModuleList([nn.ModuleList([conv(), nn.Tanh()])]))


def names_with_numbers() -> nn.Module:
    """A layer named as the TorchScript exporter names the second call of another."""
    children = {"act": nn.ReLU(), "act_1": nn.Tanh(), "fc": conv(), "fc_1": conv(), "conv2d_1": conv()}
    return Wrapped(lambda m, x: m.conv2d_1(m.act(m.fc_1(m.act_1(m.fc(m.act(x)))))), **children)


def same_input_twice() -> nn.Module:
    return Wrapped(lambda m, x: m.act(m.a(x)) * m.b(m.act(m.a(x))), a=conv(), b=conv(), act=nn.Tanh())


def layer_on_a_constant() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.act(m.proj(m.act(m.table)) + m.proj(x.mean((2, 3))))

    network = Wrapped(run, act=nn.Tanh(), proj=nn.Linear(4, 4))
    network.register_buffer("table", torch.linspace(-1, 1, 4))
    return network


def padded_convs() -> nn.Module:
    pad = nn.ZeroPad2d(1)
    return Wrapped(lambda m, x: m.b(m.pad(torch.relu(m.a(m.pad(x))))), a=conv(1), b=conv(1), pad=pad)


def reading_inside() -> nn.Module:
    """The parent reads a value of a module's child; the module returns another."""

    def run(m: Any, x: Tensor) -> Tensor:
        return m.head(m.block(x)) + m.block.inner

    def block(m: Any, x: Tensor) -> Tensor:
        m.inner = m.a(x)
        return torch.tanh(m.b(m.inner))

    return Wrapped(run, block=Wrapped(block, a=conv(), b=conv()), head=conv())


def adjacent_arithmetic() -> nn.Module:
    twice = Wrapped(lambda _m, x: x * 2)
    return Wrapped(lambda m, x: m.a(m.twice(m.twice(x))) * 2, a=conv(), twice=twice)


def split_and_cat() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        left, right = x.split(2, dim=1)
        return functional.relu(torch.cat([m.act(left), right], dim=1))

    return nn.Sequential(Wrapped(run, act=nn.Hardswish()), nn.MaxPool2d(2), conv(), nn.Hardtanh(), nn.GELU())


NETWORKS: dict[str, Network] = {
    function.__name__: function
    for function in (
        stem_of_three,
        stem_before_norm_in_block,
        shared_activation,
        shared_activation_after_norms,
        shared_conv_then_norm,
        shared_norm,
        loop_of_one_block,
        loop_of_one_layer,
        loop_over_blocks,
        activation_twice_in_a_row,
        relu_twice_in_a_row,
        last_call_is_shorter,
        first_call_is_shorter,
        scaled_container,
        residual_containers,
        basic_blocks,
        identity_blocks,
        both_of_a_pair,
        second_of_a_pair,
        indexed_pair,
        key_of_a_dict,
        stored_dict,
        outputs_as_dict,
        list_of_features,
        last_of_a_list,
        remembered_value,
        attention,
        torch_attention,
        recurrent_cell,
        reshapes_across_modules,
        transposes_across_modules,
        swapped_twice,
        module_in_two_places,
        uncalled_containers,
        names_with_numbers,
        same_input_twice,
        layer_on_a_constant,
        padded_convs,
        reading_inside,
        adjacent_arithmetic,
        split_and_cat,
    )
}
