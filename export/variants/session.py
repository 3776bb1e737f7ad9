"""Opens onnxruntime sessions as a server or a device does: optimised, from bytes, in ONNX or ORT format."""

import onnxruntime

from export.variants.settings import Target

_PROVIDERS: dict[Target, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def is_available(target: Target) -> bool:
    """Return whether this machine has the device and an onnxruntime for it."""
    if target == "cpu":
        return True
    import torch

    return torch.cuda.is_available() and _PROVIDERS[target] in onnxruntime.get_available_providers()


def open_session(content: bytes, target: Target = "cpu") -> onnxruntime.InferenceSession:
    """Open an ONNX or ORT model with one thread on `target`, which must be available."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if content[4:8] == b"ORTM":  # the identifier of onnxruntime's own format
        options.add_session_config_entry("session.load_model_format", "ORT")
    if target == "cuda":
        onnxruntime.preload_dlls()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return onnxruntime.InferenceSession(content, options, providers=[_PROVIDERS[target]])
