"""Random weights with which every branch contributes."""

import pytest
import timm
import torch

from zoo import load_network
from zoo.networks.random_init import randomize_constant_scales


def negligible_scales(network: torch.nn.Module) -> list[str]:
    """Return the names of scales that are zero or nearly zero."""
    scales = {name: p.detach() for name, p in network.named_parameters() if not name.endswith("bias") and p.numel() > 1}
    return [name for name, scale in scales.items() if float(scale.abs().max()) < 0.01]


@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_every_branch_contributes(name: str) -> None:
    """Scales that timm initialises to zero or nearly zero, and BatchNorm's, are drawn anew; other weights are not."""
    torch.manual_seed(3)
    initial = timm.create_model(name)
    assert negligible_scales(initial) != []
    randomized = load_network(name, seed=3).network
    assert negligible_scales(randomized) == []
    before, after = initial.state_dict(), randomized.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    norms = {f"{path}.weight" for path, module in initial.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert changed == {*negligible_scales(initial), *norms}
    assert all(0.5 <= float(after[key].min()) < float(after[key].max()) <= 1.5 for key in changed)


def test_other_weights_are_unchanged() -> None:
    """Convolutions, scales of several values and zero biases keep their values."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.LayerNorm(4))
    network[1].weight.data = torch.tensor([0.25, 3.0])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    randomize_constant_scales(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
