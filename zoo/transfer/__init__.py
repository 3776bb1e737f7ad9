"""Transfer learning: pretrained weights, new heads, frozen backbones, cached features."""
