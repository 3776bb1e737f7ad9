"""onnxruntime sessions on a device that is verified after loading. No other module imports onnxruntime."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime

from serve.devices import cuda
from serve.errors import BadModelError, InferenceError, InvalidRequestError, ProviderError
from serve.repository.runtime_options import RuntimeOptions
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
LOG_FATAL = 4  # a log severity of onnxruntime
BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
ALL_OPTIMIZATIONS = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
EXTENDED_OPTIMIZATIONS = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
SEQUENTIAL, PARALLEL = onnxruntime.ExecutionMode.ORT_SEQUENTIAL, onnxruntime.ExecutionMode.ORT_PARALLEL
DEFAULTS = RuntimeOptions()
DEFAULT_CPU_INSTANCES = 2  # Triton's; two runs of one thread each do more than one run of two threads
OUT_OF_MEMORY = re.compile("failed to allocate|bad.?alloc|out of memory|alloc_failed", re.IGNORECASE)
ZIPMAP_CURE = (
    '. A ZipMap node makes it: convert the scikit-learn model with options={id(model): {"zipmap": False}}, so that the '
    "probabilities are a tensor."
)
EXTERNAL_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Session:
    """One loaded .onnx file. Any number of threads may call `run` at a time."""

    def __init__(self, runtime: Any, path: Path, device: Device, options: RuntimeOptions) -> None:
        self._runtime, self._path, self.device, self._options = runtime, path, device, options
        self.instances = _instances(device, options)
        self.metadata: Mapping[str, str] = runtime.get_modelmeta().custom_metadata_map
        self.inputs = tuple(self._spec(node) for node in runtime.get_inputs())
        self.outputs = tuple(self._spec(node) for node in runtime.get_outputs())
        self.output_names = [spec.name for spec in self.outputs]
        self._has_strings = any(spec.datatype == datatypes.BYTES.name for spec in (*self.inputs, *self.outputs))
        self._has_bfloat16 = any(spec.datatype == datatypes.BF16.name for spec in (*self.inputs, *self.outputs))

    @classmethod
    def open(cls, path: Path, provider: Provider, options: RuntimeOptions = DEFAULTS) -> Self:
        """Load the model at `path`.

        Raises:
            BadModelError: onnxruntime rejects the file.
            ProviderError: `provider` is cuda, and CUDA cannot run all of the model on this machine.
        """
        if provider == "cpu":
            return cls(_load(path, path, "cpu", options), path, "cpu", options)
        try:
            return cls(_load_on_cuda(path, options), path, "cuda", options)
        except ProviderError as error:
            if provider == "cuda":
                raise
            session = cls(_load(path, path, "cpu", options), path, "cpu", options)
            _warn_once(f"models run on the CPU: {error}")
            return session

    @property
    def has_chosen_threads(self) -> bool:
        """Whether several threads share the work of an operator, because the server chose so."""
        return self.device == "cpu" and not self._options.intra_op_threads and threads_per_run(self.instances) > 1

    def with_one_thread(self) -> Self:
        """Load the same file with one thread for each run. Raises: BadModelError."""
        return self.open(self._path, "cpu", replace(self._options, intra_op_threads=1))

    def reopen_with(self, model: bytes) -> "Session":
        """Load a modified, serialised copy of this session's model on the same device.

        External weights are read from the folder of the original file.

        Raises:
            BadModelError: onnxruntime rejects the copy.
        """
        try:
            return self._reopen(model, ALL_OPTIMIZATIONS)
        except BadModelError:
            # A value that is also an output can block a fusion of the highest optimisation level: use the one below.
            log.info("%s: these layers are computed at the extended optimisation level", self._path)
            return self._reopen(model, EXTENDED_OPTIMIZATIONS)

    def _reopen(self, model: bytes, level: Any) -> "Session":
        runtime = _load(model, self._path, self.device, self._options, level)
        return Session(runtime, self._path, self.device, self._options)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Compute the named outputs.

        Raises:
            InvalidRequestError: A BYTES element is not UTF-8, as ONNX's strings must be.
            InferenceError: The model failed on these inputs.
        """
        feeds = {name: _decode_strings(name, array) for name, array in inputs.items()} if self._has_strings else inputs
        try:
            arrays = self._run(feeds, outputs)
        except Exception as error:
            log.exception("%s failed on inputs %s", self._path, {n: a.shape for n, a in inputs.items()})
            raise InferenceError("the model failed on this input; see the server's log.") from error
        if self._has_strings:
            arrays = [_encode_strings(array) for array in arrays]
        return dict(zip(outputs, arrays, strict=True))

    def trial_run(self, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
        """Return all outputs, BYTES as `str`; None if the model does not run on these inputs."""
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._run(inputs, names), strict=True))
        except Exception as error:  # noqa: BLE001  onnxruntime has no common class for them
            log.debug("%s does not run on %s: %s", self._path, {n: a.shape for n, a in inputs.items()}, error)
            return None

    def warm_up_run(self, inputs: Mapping[str, Array]) -> bool:
        """Run once and discard the outputs; return whether the run succeeded.

        Raises:
            BadModelError: There is not enough memory for these inputs.
        """
        try:
            self._run(inputs, self.output_names)
        except Exception as error:
            if OUT_OF_MEMORY.search(str(error)):
                shapes = {name: list(array.shape) for name, array in inputs.items()}
                raise BadModelError(f"{self._path} does not fit: out of memory with inputs of {shapes}.") from error
            return False
        return True

    def _run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        """Run the model; tensors of bfloat16, which numpy lacks, are passed as OrtValues."""
        if not self._has_bfloat16:
            arrays: list[Array] = self._runtime.run(outputs, inputs)
            return arrays
        feeds = {name: _to_ort_value(array) for name, array in inputs.items()}
        return [_from_ort_value(value) for value in self._runtime.run_with_ort_values(list(outputs), feeds)]

    def _spec(self, node: Any) -> TensorSpec:
        datatype = datatypes.BY_ONNX.get(node.type)
        if datatype is None:
            cure = ZIPMAP_CURE if node.type.startswith("seq(map(") else "."
            raise BadModelError(f"{self._path}: '{node.name}' has type {node.type}, which the protocol lacks{cure}")
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        batch_name = node.shape[0] if node.shape and isinstance(node.shape[0], str) else ""
        return TensorSpec(node.name, datatype.name, shape, batch_name)


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _load_on_cuda(path: Path, options: RuntimeOptions) -> Any:
    missing = missing_for_cuda()
    if missing:
        raise ProviderError(f"CUDA cannot be used: {missing}")
    return _load(path, path, "cuda", options)


def _load(
    source: Path | bytes, path: Path, device: Device, options: RuntimeOptions, level: Any = ALL_OPTIMIZATIONS
) -> Any:
    onnxruntime.set_default_logger_severity(LOG_FATAL)  # errors are raised as exceptions
    settings = _session_options(device, options)
    settings.graph_optimization_level = level
    if isinstance(source, bytes):
        settings.add_session_config_entry(EXTERNAL_WEIGHTS_FOLDER, os.fspath(path.parent))
    model = source if isinstance(source, bytes) else os.fspath(source)
    try:
        # enable_fallback=0: otherwise onnxruntime's Python wrapper retries on the CPU, and prints that to stdout
        providers = [(PROVIDERS[device], dict(OPTIONS[device]))]
        runtime = onnxruntime.InferenceSession(model, settings, providers=providers, enable_fallback=0)
    except Exception as error:
        reason = str(error).split(" : ", 3)[-1]  # without onnxruntime's prefix, error number and name
        if device == "cuda":
            raise ProviderError(_cuda_error(path, reason)) from error
        raise BadModelError(f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}") from error
    if PROVIDERS[device] not in runtime.get_providers():
        raise ProviderError(_cuda_error(path, f"onnxruntime chose {runtime.get_providers()} instead."))
    return runtime


def _session_options(device: Device, options: RuntimeOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = LOG_FATAL
    settings.intra_op_num_threads = options.intra_op_threads or (
        threads_per_run(_instances(device, options)) if device == "cpu" else 1
    )
    settings.inter_op_num_threads = options.inter_op_threads
    settings.execution_mode = PARALLEL if options.is_parallel else SEQUENTIAL
    settings.enable_cpu_mem_arena = options.has_arena
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads do not occupy cores
    if device == "cuda":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return settings


def _cuda_error(path: Path, reason: str) -> str:
    unloadable = cuda.unloadable(Path(onnxruntime.__file__).parent / "capi")
    if unloadable:
        return f"CUDA cannot be used: {unloadable}"
    if "fallback to CPU EP" in reason:
        return f"CUDA cannot run all of {path}: some of its nodes would run on the CPU."
    return f"CUDA cannot run {path}: {reason}"


@functools.cache
def missing_for_cuda() -> str | None:
    """Return what this machine lacks for CUDA, as a sentence; None if nothing is known to be missing."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "the installed onnxruntime was built without it; run: pip install 'zoonnx[cuda]'"
    missing = cuda.missing()
    if missing:
        return missing
    with contextlib.redirect_stdout(io.StringIO()) as output:  # preload_dlls prints the names of missing libraries
        onnxruntime.preload_dlls()
        for folder in cuda.library_folders():
            onnxruntime.preload_dlls(directory=os.fspath(folder))
    log.debug("onnxruntime.preload_dlls: %s", output.getvalue())
    return None


def _instances(device: Device, options: RuntimeOptions) -> int:
    """Return the number of batches that run concurrently: by default two on a CPU with two cores or more, else one."""
    return options.instances or (min(DEFAULT_CPU_INSTANCES, _cores()) if device == "cpu" else 1)


def threads_per_run(instances: int) -> int:
    """Return the number of threads per run, such that all instances together use at most one thread per core.

    A run uses its caller's thread and the session's pool, which has one thread less and is shared by all instances.
    """
    return max(1, _cores() - instances + 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _to_ort_value(array: Array) -> Any:
    if array.dtype != datatypes.BF16.numpy:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = np.ascontiguousarray(array)["bits"].copy()
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16)


def _from_ort_value(value: Any) -> Array:
    if value.element_type() != BFLOAT16:
        return np.asarray(value.numpy())
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, datatypes.BF16.numpy).reshape(value.shape())


def _decode_strings(name: str, array: Array) -> Array:
    """Convert the protocol's `bytes` elements to the `str` elements that onnxruntime needs."""
    if array.dtype != object:
        return array
    try:
        return np.array([element.decode() for element in array.ravel()], object).reshape(array.shape)
    except UnicodeDecodeError:
        raise InvalidRequestError(f"tensor '{name}': an element is not UTF-8.") from None


def _encode_strings(array: Array) -> Array:
    if array.dtype != object:
        return array
    return np.array([element.encode() for element in array.ravel()], object).reshape(array.shape)
