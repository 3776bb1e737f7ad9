"""The only place of this package that knows onnxruntime: it runs a model the way a server or a device would."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime

from export.errors import ConversionError
from export.large import is_large, on_disk

IR_VERSION = 10  # what torch's exporter writes
PROVIDERS = ["CPUExecutionProvider"]
OUTSIDE_WEIGHTS = "session.model_external_initializers_file_folder_path"

Array = npt.NDArray[Any]


class Runtime:
    """One session on the CPU, one thread, so that its figures repeat.

    With `optimise=False` the graph runs as written, which keeps every intermediate value fetchable.
    """

    def __init__(self, model: onnx.ModelProto, *, optimise: bool = True, weights: Path | None = None) -> None:
        """Load `model`; `weights` is the folder of those that stand beside its file. Raises: ConversionError."""
        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        if weights is not None:
            options.add_session_config_entry(OUTSIDE_WEIGHTS, os.fspath(weights))
        try:
            self._session = _session(model, options)
        except Exception as error:
            raise ConversionError(f"onnxruntime refuses the model: {error}") from error
        self.output_names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Return the named outputs (all, if none are named). Raises: ConversionError."""
        names = list(outputs) if outputs is not None else self.output_names
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise ConversionError(f"onnxruntime cannot run the model: {error}") from error


def _session(model: onnx.ModelProto, options: Any) -> Any:
    """A large model is no message: its session maps the weights from a file, which is gone when the session is."""
    if not is_large(model):
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)
    with on_disk(model) as path:
        return onnxruntime.InferenceSession(path, options, providers=PROVIDERS)


def require_runs(opset: int) -> None:
    """Refuse an opset that the installed onnxruntime does not run. Raises: ConversionError."""
    if not _runs(opset):
        newest = next((each for each in range(opset - 1, 0, -1) if _runs(each)), 0)
        raise ConversionError(
            f"opset {opset} is newer than what onnxruntime {onnxruntime.__version__} runs, which is {newest}: "
            f"choose --opset {newest} or less, or install a newer onnxruntime."
        )


@functools.cache
def _runs(opset: int) -> bool:
    """Ask the runtime itself, with a model of one node."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "one",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    try:
        Runtime(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))
    except ConversionError:
        return False
    return True


def with_every_value(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` that gives every node's outputs as graph outputs."""
    return with_values(model, [name for node in model.graph.node for name in node.output if name])


def with_values(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of `model` that gives the named values, too."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    open_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    return open_model
