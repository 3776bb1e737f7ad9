"""Measures the peak memory of loading and running a model, in a separate process.

As a script, `memory.py MODEL FEEDS.npz` prints the increase of the process's memory at its peak, in bytes.
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
    """Return the peak memory of loading and running a model in MB; None on systems without /proc.

    Raises: VariantError if the process fails or does not end.
    """
    if not STATUS.exists():
        return None
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        model, arrays = Path(folder) / "model", Path(folder) / "feeds.npz"
        model.write_bytes(content)
        np.savez(arrays, **feeds)
        # Without -P, modules in this file's folder would shadow installed packages.
        command = [sys.executable, "-P", __file__, str(model), str(arrays)]
        return _run(command) / 1e6


def _run(command: Sequence[str]) -> int:
    from export.errors import VariantError

    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise VariantError(f"its memory measurement did not end within {TIMEOUT_S} s.") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise VariantError(f"its memory measurement failed: {reason}")
    return int(done.stdout)


def _status_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def main(model: str, arrays: str) -> int:
    """Load and run the model; return the increase of the process's memory at its peak, in bytes."""
    import numpy as np
    import onnxruntime

    feeds = dict(np.load(arrays))
    before = _status_bytes("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if Path(model).read_bytes()[4:8] == b"ORTM":
        options.add_session_config_entry("session.load_model_format", "ORT")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, feeds)
    return _status_bytes("VmHWM") - before


if __name__ == "__main__":
    sys.stdout.write(str(main(*sys.argv[1:])))
