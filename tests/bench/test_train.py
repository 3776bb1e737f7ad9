"""The training benchmark: both loops do the same steps."""

import itertools

import torch

from bench import train as bench
from zoo.training.context import TrainingContext, build_context


def test_both_loops_learn_the_same(monkeypatch) -> None:
    """From the same weights and with the same order of images, both have the same weights after more than an epoch."""
    networks = {}
    weights = bench.create_model("convnet4", num_classes=10, in_chans=1, img_size=(8, 8)).state_dict()
    order = torch.randperm(len(bench.load_dataset("digits").train))
    monkeypatch.setattr(torch, "randperm", lambda count: order)
    original_create_model = bench.create_model

    def create_model(name: str, **options: object) -> torch.nn.Module:
        networks["minimal"] = (network := original_create_model(name, **options))
        network.load_state_dict(weights)
        return network

    def build_context_with_weights(*arguments: object) -> TrainingContext:
        context = build_context(*arguments)
        context.network.load_state_dict(weights)
        networks["ours"] = context.network
        return context

    monkeypatch.setattr(bench, "create_model", create_model)
    monkeypatch.setattr(bench, "build_context", build_context_with_weights)
    for loop in (bench._our_loop(), bench._minimal_loop()):
        list(itertools.islice(loop, 45))
        loop.close()
    ours, minimal = (networks[name].state_dict() for name in ("ours", "minimal"))
    assert all(torch.allclose(ours[name], minimal[name], rtol=1e-3, atol=1e-5) for name in ours)
    assert not any(torch.equal(ours[name], weights[name]) for name in ours)
