"""The output of one layer of a network, and of one unit of it."""

from torch import Tensor, nn

from zoo.errors import SettingsError, did_you_mean


def response(network: nn.Module, layer: str, x: Tensor) -> Tensor:
    """Run `network` in its current mode on float `x`, (N, C, H, W); return the output of the module at path `layer`.

    If the module is called several times, this is the output of the first call. Gradients flow if torch records them.

    Raises:
        SettingsError: the network has no such layer, does not call it, or its output is not a single tensor.
    """
    modules = dict(network.named_modules())
    if layer not in modules:
        raise SettingsError(f"the network has no layer '{layer}'{did_you_mean(layer, modules)}")
    outputs: list[object] = []
    handle = modules[layer].register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        network(x)
    finally:
        handle.remove()
    if not outputs or not isinstance(outputs[0], Tensor):
        raise SettingsError(f"layer '{layer}' is not called or does not output a single tensor: choose another layer")
    return outputs[0].clone()


def unit(output: Tensor, channel: int, place: tuple[int, ...] = ()) -> Tensor:
    """Return one unit of a layer's output (N, channels, *axes) for each image: (N,).

    Without `place`, its index along the axes, this is the middle unit.

    Raises:
        SettingsError: the output has no such unit.
    """
    sizes = tuple(output.shape[1:])
    index = (channel, *(place or tuple(size // 2 for size in sizes[1:])))
    if len(index) != len(sizes) or any(not 0 <= i < size for i, size in zip(index, sizes, strict=True)):
        raise SettingsError(f"there is no unit {index} in an output of shape {sizes}")
    selected = output
    for i in index:
        selected = selected[:, i]
    return selected
