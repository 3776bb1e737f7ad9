"""The training benchmark: that both loops do the same steps."""

import itertools

import torch

from bench import train as bench
from zoo.training.context import Session, prepare


def test_both_loops_learn_the_same(monkeypatch) -> None:
    """From the same weights and in the same order of images, both have the same weights after an epoch and more."""
    networks = {}
    weights = bench.create_model("convnet4", num_classes=10, in_chans=1, img_size=(8, 8)).state_dict()
    order = torch.randperm(len(bench.load_dataset("digits").train))
    monkeypatch.setattr(torch, "randperm", lambda count: order)

    def from_weights(name: str, **given: object) -> torch.nn.Module:
        networks["bare"] = (network := made(name, **given))
        network.load_state_dict(weights)
        return network

    def prepared(*given: object) -> Session:
        session = prepare(*given)
        session.whole.load_state_dict(weights)
        networks["ours"] = session.whole
        return session

    made = bench.create_model
    monkeypatch.setattr(bench, "create_model", from_weights)
    monkeypatch.setattr(bench, "prepare", prepared)
    for loop in (bench._ours(), bench._bare()):
        list(itertools.islice(loop, 45))
        loop.close()
    ours, bare = (networks[name].state_dict() for name in ("ours", "bare"))
    assert all(torch.allclose(ours[name], bare[name], rtol=1e-3, atol=1e-5) for name in ours)
    assert not any(torch.equal(ours[name], weights[name]) for name in ours)
