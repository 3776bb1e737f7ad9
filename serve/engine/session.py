"""A model in onnxruntime, on a device that was really checked. Nothing else imports onnxruntime."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime

from serve.devices import cuda
from serve.errors import BadModelError, InferenceError, InvalidRequestError, ProviderError
from serve.settings import Provider
from serve.wire import datatypes
from serve.wire.tensors import Array, TensorSpec

log = logging.getLogger(__name__)
Device = Literal["cuda", "cpu"]
PROVIDERS: Mapping[Device, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
OPTIONS: Mapping[Device, Mapping[str, str]] = {
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC"},  # EXHAUSTIVE, the default, takes seconds for each new shape
    "cpu": {},
}
FATAL = 4
BFLOAT16 = 16  # ONNX's number for it
ALL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
NO_MEMORY = re.compile("failed to allocate|bad.?alloc|out of memory|alloc_failed", re.IGNORECASE)
OUTSIDE_WEIGHTS = "session.model_external_initializers_file_folder_path"


class Session:
    """One .onnx file, ready to run. `run` may be called from as many threads at a time as it has `instances`."""

    def __init__(self, runtime: Any, path: Path, device: Device, instances: int) -> None:
        self._runtime, self._path, self.device, self._instances = runtime, path, device, instances
        self.metadata: Mapping[str, str] = runtime.get_modelmeta().custom_metadata_map
        self.inputs = tuple(self._spec(node) for node in runtime.get_inputs())
        self.outputs = tuple(self._spec(node) for node in runtime.get_outputs())
        self._bits = any(each.datatype == datatypes.BF16.name for each in (*self.inputs, *self.outputs))

    @classmethod
    def open(cls, path: Path, provider: Provider, instances: int = 1) -> Self:
        """Load `path`.

        Raises:
            BadModelError: onnxruntime refuses the file.
            ProviderError: `provider` is cuda, and CUDA cannot run the whole model here.
        """
        if provider == "cpu":
            return cls(_load(path, path, "cpu", instances), path, "cpu", instances)
        try:
            return cls(_load_on_cuda(path), path, "cuda", instances)
        except ProviderError as error:
            if provider == "cuda":
                raise
            session = cls(_load(path, path, "cpu", instances), path, "cpu", instances)
            _warn_once(f"models run on the CPU: {error}")
            return session

    def opened_with(self, model: bytes) -> "Session":
        """Open a changed copy of this session's model, on the same device; outside weights stay where they are.

        Raises:
            BadModelError: onnxruntime refuses it.
        """
        try:
            return self._reloaded(model, ALL)
        except BadModelError:
            # A value that is an output can stand in the way of the last level's fusions: do without that level.
            log.info("%s: this set of layers is computed at the extended optimisation level", self._path)
            return self._reloaded(model, EXTENDED)

    def _reloaded(self, model: bytes, level: Any) -> "Session":
        runtime = _load(model, self._path, self.device, self._instances, level)
        return Session(runtime, self._path, self.device, self._instances)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Compute the named outputs.

        Raises:
            InvalidRequestError: a BYTES element is not UTF-8, which ONNX's strings are.
            InferenceError: the model failed on these inputs.
        """
        feeds = {name: _strings(name, array) for name, array in inputs.items()}
        try:
            values = self._run_bits(feeds, outputs) if self._bits else self._runtime.run(list(outputs), feeds)
        except Exception as error:
            log.exception("%s failed on inputs %s", self._path, {n: a.shape for n, a in inputs.items()})
            raise InferenceError("the model failed on this input; the server's log says why.") from error
        return {name: _bytes(value) for name, value in zip(outputs, values, strict=True)}

    def warm_up_run(self, inputs: Mapping[str, Array]) -> bool:
        """Run once for nothing; returns whether the model could. Raises: BadModelError, where memory runs out."""
        try:
            names = [each.name for each in self.outputs]
            _ = self._run_bits(inputs, names) if self._bits else self._runtime.run(names, dict(inputs))
        except Exception as error:
            if NO_MEMORY.search(str(error)):
                shapes = {name: list(array.shape) for name, array in inputs.items()}
                raise BadModelError(f"{self._path} does not fit: memory runs out at inputs of {shapes}.") from error
            return False
        return True

    def _run_bits(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run a model that takes or gives bfloat16, which onnxruntime hands over as memory, not as numpy's."""
        feeds = {name: _with_bits(array) for name, array in inputs.items()}
        return [_from_bits(value) for value in self._runtime.run_with_ort_values(list(outputs), feeds)]

    def _spec(self, node: Any) -> TensorSpec:
        datatype = datatypes.BY_ONNX.get(node.type)
        if datatype is None:
            raise BadModelError(f"{self._path}: '{node.name}' is a {node.type}, which cannot be served.")
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        first = node.shape[0] if node.shape and isinstance(node.shape[0], str) else ""
        return TensorSpec(node.name, datatype.name, shape, first)


@functools.cache
def _warn_once(words: str) -> None:
    log.warning(words)


def _load_on_cuda(path: Path) -> Any:
    missing = _missing_for_cuda()
    if missing:
        raise ProviderError(f"CUDA cannot be used: {missing}")
    return _load(path, path, "cuda", 1)


def _load(source: Path | bytes, path: Path, device: Device, instances: int, level: Any = ALL) -> Any:
    onnxruntime.set_default_logger_severity(FATAL)  # what goes wrong comes as an exception; the rest is noise
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads_a_run(instances) if device == "cpu" else 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    if isinstance(source, bytes):
        options.add_session_config_entry(OUTSIDE_WEIGHTS, os.fspath(path.parent))
    model = source if isinstance(source, bytes) else os.fspath(source)
    if device == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        # enable_fallback=0: else onnxruntime's Python part tries the CPU by itself, and says so on stdout
        providers = [(PROVIDERS[device], dict(OPTIONS[device]))]
        runtime = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:
        reason = str(error).split(" : ", 3)[-1]  # behind onnxruntime's own prefix, number and name
        if device == "cuda":
            raise ProviderError(_why_not_on_cuda(path, reason)) from error
        raise BadModelError(f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}") from error
    if PROVIDERS[device] not in runtime.get_providers():
        raise ProviderError(_why_not_on_cuda(path, f"onnxruntime took {runtime.get_providers()} instead."))
    return runtime


def _why_not_on_cuda(path: Path, reason: str) -> str:
    lacking = cuda.unloadable(Path(onnxruntime.__file__).parent / "capi")
    if lacking:
        return f"CUDA cannot be used: {lacking}"
    if "fallback to CPU EP" in reason:
        return f"CUDA cannot run all of {path}: some of its nodes would run on the CPU."
    return f"CUDA cannot run {path}: {reason}"


@functools.cache
def _missing_for_cuda() -> str | None:
    """What this machine lacks for CUDA, as a sentence; None if nothing obvious."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "the installed onnxruntime was built without it; run: pip install 'zoonnx[cuda]'"
    lacking = cuda.missing()
    if lacking:
        return lacking
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it does not find
        onnxruntime.preload_dlls()
        for folder in cuda.library_folders():
            onnxruntime.preload_dlls(directory=os.fspath(folder))
    log.debug("onnxruntime.preload_dlls: %s", said.getvalue())
    return None


def threads_a_run(instances: int) -> int:
    """How many threads a run may use, so that all instances together have no more than there are cores.

    A run uses its caller's thread and those of the session's pool, which is one smaller and shared by all instances.
    """
    return max(1, _cores() - instances + 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_bits(array: Array) -> Any:
    value = onnxruntime.OrtValue
    if array.dtype != datatypes.BF16.numpy:
        return value.ortvalue_from_numpy(array)
    return value.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array)["bits"].copy(), BFLOAT16)


def _from_bits(value: Any) -> Array:
    if value.element_type() != BFLOAT16:
        return np.asarray(value.numpy())
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, datatypes.BF16.numpy).reshape(value.shape())


def _strings(name: str, array: Array) -> Array:
    """onnxruntime takes strings; the wire brings bytes."""
    if array.dtype != object:
        return array
    try:
        return np.array([each.decode() for each in array.ravel()], object).reshape(array.shape)
    except UnicodeDecodeError:
        raise InvalidRequestError(f"tensor '{name}': an element is not UTF-8.") from None


def _bytes(array: Array) -> Array:
    if array.dtype != object:
        return array
    return np.array([each.encode() for each in array.ravel()], object).reshape(array.shape)
