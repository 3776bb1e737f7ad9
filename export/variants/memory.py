"""How much memory a model takes to load and run, in a process that does nothing else.

As a script: `memory.py MODEL FEEDS.npz` prints the most that the process held beyond what it held before, in bytes.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
RUNS = 3
TIMEOUT_S = 300


def peak_mb(content: bytes, feeds: Mapping[str, Any]) -> float | None:
    """The peak of loading and running the model in `content`, in MB; None where the system does not tell it.

    Raises: VariantError when the process fails or does not end.
    """
    if not STATUS.exists():
        return None
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        model, arrays = Path(folder) / "model", Path(folder) / "feeds.npz"
        model.write_bytes(content)
        np.savez(arrays, **feeds)
        # -P: the names in this folder would hide installed packages.
        command = [sys.executable, "-P", __file__, str(model), str(arrays)]
        return _output(command) / 1e6


def _output(command: Sequence[str]) -> int:
    from export.errors import VariantError

    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise VariantError(f"run in a process of its own, it did not end within {TIMEOUT_S} s.") from error
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise VariantError(f"run in a process of its own, it failed: {why}")
    return int(done.stdout)


def _field(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main(model: str, arrays: str) -> int:
    """Load and run; return the growth of the process's memory in bytes."""
    import numpy as np
    import onnxruntime

    feeds = dict(np.load(arrays))
    before = _field("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if Path(model).read_bytes()[4:8] == b"ORTM":
        options.add_session_config_entry("session.load_model_format", "ORT")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, feeds)
    return _field("VmHWM") - before


if __name__ == "__main__":
    sys.stdout.write(str(main(*sys.argv[1:])))
