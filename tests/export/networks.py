"""Helpers for tests of the layer maps of small networks."""

import torch
from torch import nn

from export.convert.convert import convert
from export.convert.prepare import prepare
from export.interface.interface import ImageInterface, Interface
from export.reference.determinism import reference_runs
from export.verify.layer_map import map_layers
from protos import manifest
from zoo.networks.preprocessing import Preprocessing

SMALL = ImageInterface(Preprocessing(input_size=(3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))


def mapped(network: nn.Module, interface: Interface = SMALL) -> dict[str, manifest.Layer]:
    """Convert `network` with 3x8x8 images and return its layer map by layer name."""
    prepared = prepare(network.eval())
    model = interface.attach(convert(prepared, interface, 20))
    return {layer.name: layer for layer in map_layers(model, prepared, reference_runs(prepared, interface)).layers}


def status(layer: manifest.Layer) -> tuple[str, str]:
    """Return the name of the layer's status, and the layer that an alias or a folded layer refers to."""
    return manifest.LayerStatus.Name(layer.status), layer.of


class Base(nn.Module):
    """A convolution and a linear layer; subclasses define the layers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.middle(self.conv(x)).flatten(1))

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError  # defined by the networks of the tests
