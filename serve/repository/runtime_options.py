"""Options of onnxruntime that a config.pbtxt sets, under the names of Triton's ONNX Runtime backend."""

from dataclasses import dataclass

from protos import inference
from serve.errors import BadModelError

MAX_THREADS = 1024


@dataclass(frozen=True)
class RuntimeOptions:
    """How onnxruntime runs a model.

    Attributes:
        instances: Number of batches that run concurrently; 0 is chosen by the server.
        intra_op_threads: Threads that share the work of one operator; 0 is chosen by the server.
        inter_op_threads: Threads that run different operators at a time, if `is_parallel`; 0 is chosen by onnxruntime.
        is_parallel: Whether operators that do not depend on each other run at a time.
        has_arena: Whether memory is kept for later runs, which is faster, instead of being returned after each run.
    """

    instances: int = 0
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    is_parallel: bool = False
    has_arena: bool = True


def runtime_options(config: inference.ModelConfig, instances: int) -> RuntimeOptions:
    """Return the options of a configuration.

    Raises:
        BadModelError: The value of an option is invalid.
    """
    return RuntimeOptions(
        instances=instances,
        intra_op_threads=_number(config, "intra_op_thread_count", 0, MAX_THREADS),
        inter_op_threads=_number(config, "inter_op_thread_count", 0, MAX_THREADS),
        is_parallel=_number(config, "execution_mode", 0, 1) == 1,
        has_arena=_number(config, "enable_mem_arena", 1, 1) == 1,
    )


def _number(config: inference.ModelConfig, name: str, default: int, largest: int) -> int:
    if name not in config.parameters:
        return default
    text = config.parameters[name].string_value
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(largest)) and int(text) <= largest):
        raise BadModelError(
            f"model '{config.name}': the parameter {name} of config.pbtxt must be a whole number from 0 to {largest}; "
            f"got '{text}'."
        )
    return int(text)
