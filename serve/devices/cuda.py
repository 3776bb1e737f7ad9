"""Diagnoses why CUDA does not work on this machine; onnxruntime reports only that it does not."""

import ctypes
import functools
import importlib.util
from pathlib import Path

DRIVER = "libcuda.so.1"
SHARED, CUDA = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: cuInit's status if the driver is present, but no GPU is visible


@functools.cache
def missing() -> str | None:
    """Return why the driver or the GPU does not work, as a sentence; None if both work."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"there is no NVIDIA driver on this machine ({DRIVER})."
    status = int(driver.cuInit(0))
    if status == NO_DEVICE:
        return "the NVIDIA driver finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES."
    if status:
        return f"the NVIDIA driver does not start: cuInit returned {status}; check nvidia-smi."
    return None


def library_folders() -> list[Path]:
    """Return the library folders of NVIDIA's wheels, wherever they are installed.

    onnxruntime searches only next to its own package, and does not find them if it is on the PYTHONPATH.
    """
    package = importlib.util.find_spec("nvidia")
    locations = package.submodule_search_locations if package else None
    return sorted(folder for location in locations or () for folder in Path(location).glob("*/lib"))


def unloadable(libraries: Path) -> str | None:
    """Return which library of onnxruntime's CUDA provider cannot be loaded, as a sentence; None if all can.

    `libraries` is the folder of onnxruntime's own libraries. Call this only after onnxruntime failed to load CUDA,
    because it loads the CUDA provider itself.
    """
    if not (libraries / CUDA).exists():
        return f"the installed onnxruntime lacks {CUDA}; run: pip install 'zoonnx[cuda]'"
    try:
        ctypes.CDLL(str(libraries / SHARED), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(libraries / CUDA))
    except OSError as error:
        library = str(error).partition(":")[0]
        return f"{library}, which onnxruntime's CUDA provider needs, cannot be loaded; run: pip install 'zoonnx[cuda]'"
    return None
