"""Exports a network and compares its file, output by output and layer by layer, with hooks on the network itself."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export import ExportSettings, export_model
from export.arrays import Array
from export.check.run import check_model
from export.input_spec import InputSpec
from export.interface.network_outputs import named_outputs
from export.onnx_model.runtime import Runtime
from protos import manifest
from protos.layer_names import layer_name

RTOL = 2e-3  # of the largest magnitude
SCALES = {"usual": 1.0, "ten times": 10.0, "hundred times": 100.0, "zeros": 0.0}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network with the same weights in each run, in evaluation mode."""
    torch.manual_seed(0)
    return build().eval()


def arrays(spec: InputSpec) -> Iterator[Array]:
    """Yield noise of the batches 1, 2, 7 and 4, at several scales, or within the limits and at both of them."""
    random = np.random.default_rng(7)
    if spec.bounds is None:
        yield from (random.standard_normal((batch, *spec.shape), np.float32) for batch in (1, 2, 7))
        yield from (random.standard_normal((4, *spec.shape), np.float32) * scale for scale in SCALES.values())
        return
    low, high = map(int, spec.bounds)
    for batch in (1, 2, 7):
        yield random.integers(low, high, (batch, *spec.shape), endpoint=True).astype(spec.dtype)
    yield from (np.full((2, *spec.shape), value, spec.dtype) for value in (low, high))


def require_equal(
    network: nn.Module,
    inputs: Mapping[str, InputSpec],
    to: Path,
    feeds: list[dict[str, Array]],
    *,
    dynamic_size: bool = False,
) -> manifest.LayerMap:
    """Export `network`, and compare the file with it on `feeds`, also row by row; return the layer map."""
    settings = ExportSettings(to=to, name="n", raw=True, inputs=inputs, dynamic_size=dynamic_size)
    exported = export_model(network, settings)
    assert [failure for report in check_model(to / "n") for failure in report.failures] == []
    layer_map = exported.manifest.layer_map
    values = {layer.name: layer.value for layer in layer_map.layers if layer.value}
    runtime = Runtime(onnx.load(exported.folder / "model.onnx"), values.values())
    for feed in feeds:
        outputs, layers = original(network, feed)
        computed = runtime.run(feed)
        for name, expected in outputs.items():
            require_close(f"output {name}", computed[name], expected)
        for name, value in values.items():
            require_close(f"layer {name}", computed[value], layers[name])
    require_rows(runtime, feeds[-1], values)
    return layer_map


def require_rows(runtime: Runtime, feed: Mapping[str, Array], values: Mapping[str, str]) -> None:
    """Require that each row of a batch is what the row on its own gives: a server mixes requests."""
    count = len(next(iter(feed.values())))
    batch = runtime.run(feed)
    singles = [runtime.run({name: array[row : row + 1] for name, array in feed.items()}) for row in range(count)]
    for name, value in values.items():
        if len(batch[value]) == count:
            require_close(f"rows of {name}", np.concatenate([single[value] for single in singles]), batch[value])


def original(network: nn.Module, feed: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the outputs of the network without hooks, and what a hook on each module sees."""
    with torch.no_grad():
        outputs = named_outputs(network(**tensors(feed)))
    copies = {name: tensor.detach().clone().numpy() for name, tensor in outputs.items()}
    layers: dict[str, Array] = {}
    calls: defaultdict[str, int] = defaultdict(int)

    def hook(path: str) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            parts = [output] if isinstance(output, Tensor) else [part for part in output if part is not None]
            for element, part in enumerate(parts):
                layers[layer_name(path, calls[path], element)] = part.detach().clone().numpy()
            calls[path] += 1

        return record

    handles = [module.register_forward_hook(hook(path)) for path, module in network.named_modules() if path]
    with torch.no_grad():
        network(**tensors(feed))
    for handle in handles:
        handle.remove()
    return copies, layers


def tensors(feed: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in feed.items()}


def require_close(what: str, actual: Array, expected: Array) -> None:
    """Require the same datatype, shape and NaN, and finite values within RTOL of the largest magnitude."""
    assert (what, actual.dtype, actual.shape) == (what, expected.dtype, expected.shape)
    if not np.issubdtype(expected.dtype, np.inexact):
        np.testing.assert_array_equal(actual, expected, what)
        return
    finite = np.isfinite(expected)
    largest = float(np.max(np.abs(expected), initial=0.0, where=finite))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * largest, err_msg=what)
