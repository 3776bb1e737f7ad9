"""What one layer of a network gives."""

from torch import Tensor, nn

from zoo.errors import SettingsError, did_you_mean


def response(network: nn.Module, layer: str, x: Tensor) -> Tensor:
    """Run `network` in its present mode on float `x`, (N, C, H, W), and return what the module at path `layer` gives.

    The first call counts. Gradients flow if torch records them.

    Raises:
        SettingsError: the network has no such layer, or never calls it, or it gives no single tensor.
    """
    modules = dict(network.named_modules())
    if layer not in modules:
        raise SettingsError(f"the network has no layer '{layer}'{did_you_mean(layer, modules)}")
    seen: list[object] = []
    handle = modules[layer].register_forward_hook(lambda _module, _args, output: seen.append(output))
    try:
        network(x)
    finally:
        handle.remove()
    if not seen or not isinstance(seen[0], Tensor):
        raise SettingsError(f"the layer '{layer}' gives no single tensor: choose one that is called and gives one")
    return seen[0].clone()


def unit(given: Tensor, channel: int, place: tuple[int, ...] = ()) -> Tensor:
    """Return one unit of a response (N, channels, *places) for each image: (N,). Without `place`, the middle one.

    Raises:
        SettingsError: the response has no such unit.
    """
    sizes = tuple(given.shape[1:])
    index = (channel, *(place or tuple(size // 2 for size in sizes[1:])))
    if len(index) != len(sizes) or any(not 0 <= at < size for at, size in zip(index, sizes, strict=True)):
        raise SettingsError(f"there is no unit {index} in a response of {sizes}")
    chosen = given
    for at in index:
        chosen = chosen[:, at]
    return chosen
