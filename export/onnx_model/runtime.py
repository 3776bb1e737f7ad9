"""The only place of this package that knows onnxruntime: it runs a model the way a server or a device would."""

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime

from export.errors import ConversionError
from export.onnx_model.external_data import apart
from export.onnx_model.scopes import scopes_of

IR_VERSION = 10  # what torch's exporter writes
PROVIDERS = ["CPUExecutionProvider"]
FATAL = 4  # what else goes wrong is raised, too
NODE = re.compile(r"Name:'([^']*)'")
OUTSIDE_WEIGHTS = "session.model_external_initializers_file_folder_path"

Array = npt.NDArray[Any]


class Runtime:
    """One session on the CPU, one thread, so that its figures repeat.

    With `optimise=False` the graph runs as written, which keeps every intermediate value fetchable.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Iterable[str] = (),
        *,
        optimise: bool = True,
        weights: Path | None = None,
    ) -> None:
        """Load `model`, to give `values`, too; `weights` is the folder of those that stand beside its file.

        Raises: ConversionError.
        """
        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = FATAL
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        if weights is not None:
            options.add_session_config_entry(OUTSIDE_WEIGHTS, os.fspath(weights))
        self._nodes = model.graph.node
        try:
            self._session = _session(model, values, options)
        except Exception as error:
            raise ConversionError(f"onnxruntime refuses the model: {error}") from error
        self.input_names = [each.name for each in self._session.get_inputs()]
        self.output_names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Return the named outputs (all, if none are named). Raises: ConversionError."""
        names = list(outputs) if outputs is not None else self.output_names
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            where = f"{_shown(inputs)}{self._layer(str(error))}"
            raise ConversionError(f"onnxruntime cannot run the model on {where}: {error}") from error

    def _layer(self, error: str) -> str:
        """Name the layer of the node that `error` names."""
        name = NODE.search(error)
        scopes = next((scopes_of(node) for node in self._nodes if name and node.name == name[1]), ())
        return f" in its layer '{scopes[-1]}'" if scopes and scopes[-1] else ""


def _shown(inputs: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} of {'x'.join(map(str, array.shape))}" for name, array in inputs.items())


def _session(model: onnx.ModelProto, values: Iterable[str], options: Any) -> Any:
    """The weights go beside the graph, as arrays: serialising, parsing and copying them would take most of the time."""
    graph, weights = apart(model)
    known = {output.name for output in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    given = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), given)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=PROVIDERS)


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


def every_value(model: onnx.ModelProto) -> list[str]:
    """Return the names of what `model`'s nodes give, in order."""
    return [name for node in model.graph.node for name in node.output if name]
