"""Runs ONNX models with onnxruntime, as a server or a device does.

Parity and the checks use onnxruntime only through this module.
"""

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from export.arrays import Array
from export.errors import ConversionError, one_line
from export.onnx_model.external_data import split_weights
from export.onnx_model.scopes import module_scopes

IR_VERSION = 10  # the version that torch.onnx writes
PROVIDERS = ["CPUExecutionProvider"]
LOG_FATAL = 4  # all other errors are raised as exceptions
NODE_IN_ERROR = re.compile(r"Name:'([^']*)'")
EXTERNAL_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Runtime:
    """One session on the CPU with one thread, so that its results are reproducible.

    With `optimise=False` the graph runs as written, and every intermediate value can be fetched.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Iterable[str] = (),
        *,
        optimise: bool = True,
        weights: Path | None = None,
    ) -> None:
        """Load `model` with `values` as additional outputs; `weights` is the folder of its external weights.

        Raises: ConversionError.
        """
        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = LOG_FATAL
        options.enable_cpu_mem_arena = False  # it keeps the memory of the largest run
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        if weights is not None:
            options.add_session_config_entry(EXTERNAL_WEIGHTS_FOLDER, os.fspath(weights))
        self._nodes = model.graph.node
        try:
            self._session = _session(model, values, options)
        except Exception as error:
            raise ConversionError(f"onnxruntime cannot load the model: {one_line(error)}") from error
        self.input_names = [info.name for info in self._session.get_inputs()]
        self.output_names = [info.name for info in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Return the named outputs, by default all. Raises: ConversionError."""
        names = list(outputs) if outputs is not None else self.output_names
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{name} of {'x'.join(map(str, array.shape))}" for name, array in inputs.items())
            layer = self._failing_layer(str(error))
            where = f" in its layer '{layer}'" if layer else ""
            raise ConversionError(f"onnxruntime cannot run the model on {shapes}{where}: {one_line(error)}") from error

    def _failing_layer(self, error: str) -> str:
        """Return the layer of the node that an error message names; empty if unknown."""
        match = NODE_IN_ERROR.search(error)
        node = next((node for node in self._nodes if match and node.name == match[1]), None)
        return (module_scopes(node) or ("",))[-1] if node else ""


def _session(model: onnx.ModelProto, values: Iterable[str], options: Any) -> Any:
    """Open a session; the weights are passed as arrays, because serialising and parsing them would be slow."""
    graph, weights = split_weights(model)
    outputs = {output.name for output in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in outputs)
    ort_values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), ort_values)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=PROVIDERS)


def require_supported_opset(opset: int) -> None:
    """Reject an opset that the installed onnxruntime does not support. Raises: ConversionError."""
    if not _supports(opset):
        newest = next((older for older in range(opset - 1, 0, -1) if _supports(older)), 0)
        raise ConversionError(
            f"onnxruntime {onnxruntime.__version__} supports opsets up to {newest}, not {opset}: "
            f"choose --opset {newest} or less, or install a newer onnxruntime."
        )


@functools.cache
def _supports(opset: int) -> bool:
    """Return whether onnxruntime loads a model of one node with this opset."""
    tensor_info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "one",
        [tensor_info("x", onnx.TensorProto.FLOAT, [1])],
        [tensor_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    try:
        Runtime(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))
    except ConversionError:
        return False
    return True


def value_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of all values that the nodes of `model` compute, in order."""
    return [name for node in model.graph.node for name in node.output if name]
