"""In a network with random weights every branch counts."""

import pytest
import timm
import torch

from zoo import load_network
from zoo.networks.random_init import randomize_constant_scales


def silent(network: torch.nn.Module) -> list[str]:
    """Scales that are zero or nearly so."""
    scales = {name: p.detach() for name, p in network.named_parameters() if not name.endswith("bias") and p.numel() > 1}
    return [name for name, scale in scales.items() if float(scale.abs().max()) < 0.01]


@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_no_branch_sleeps(name: str) -> None:
    """The scales that timm starts at zero, or nearly so, are drawn anew, and BatchNorm's; other weights stay."""
    torch.manual_seed(3)
    plain = timm.create_model(name)
    assert silent(plain) != []
    woken = load_network(name, seed=3).network
    assert silent(woken) == []
    before, after = plain.state_dict(), woken.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    norms = {f"{path}.weight" for path, each in plain.named_modules() if isinstance(each, torch.nn.BatchNorm2d)}
    assert changed == {*silent(plain), *norms}
    assert all(0.5 <= float(after[key].min()) < float(after[key].max()) <= 1.5 for key in changed)


def test_other_weights_are_left_alone() -> None:
    """A network without such scales is not touched, nor are scales that somebody chose; biases may be zero."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.LayerNorm(4))
    network[1].weight.data = torch.tensor([0.25, 3.0])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    randomize_constant_scales(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
