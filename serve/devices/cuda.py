"""What keeps CUDA from running here, by name: onnxruntime itself only says that it did not."""

import ctypes
import functools
import importlib.util
from pathlib import Path

DRIVER = "libcuda.so.1"
SHARED, CUDA = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"
NO_DEVICE = 100  # cuInit's answer where a driver, but no GPU, is visible


@functools.cache
def missing() -> str | None:
    """Say what is missing of the driver and the GPU, as a sentence; None if nothing is."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"there is no NVIDIA driver on this machine ({DRIVER})."
    status = int(driver.cuInit(0))
    if status == NO_DEVICE:
        return "the NVIDIA driver sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES."
    if status:
        return f"the NVIDIA driver does not start: cuInit answers {status}; look at nvidia-smi."
    return None


def library_folders() -> list[Path]:
    """Return the folders of NVIDIA's wheels, wherever they are installed.

    onnxruntime looks for them only beside itself, which is not where they are when it is on the PYTHONPATH.
    """
    found = importlib.util.find_spec("nvidia")
    places = found.submodule_search_locations if found else None
    return sorted(folder for place in places or () for folder in Path(place).glob("*/lib"))


def unloadable(libraries: Path) -> str | None:
    """Say which library onnxruntime's CUDA part lacks; None if it has all. `libraries` holds onnxruntime's own.

    Only to be asked once onnxruntime has failed: where it has not, this would load its CUDA part too early.
    """
    if not (libraries / CUDA).exists():
        return f"the installed onnxruntime lacks {CUDA}; run: pip install 'zoonnx[cuda]'"
    try:
        ctypes.CDLL(str(libraries / SHARED), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(libraries / CUDA))
    except OSError as error:
        library = str(error).partition(":")[0]
        return f"{library} cannot be loaded, which onnxruntime's CUDA part needs; run: pip install 'zoonnx[cuda]'"
    return None
