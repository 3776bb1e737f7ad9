"""Arrays of a .npz file as the inputs of a model: one per input, under its name, rows first."""

import zipfile
from pathlib import Path

import numpy as np

from serve.client.model_info import ModelInfo
from serve.errors import ArrayFileError
from serve.wire import datatypes
from serve.wire.tensors import Array, TensorSpec

SUFFIX = ".npz"


def load_arrays(file: Path, info: ModelInfo) -> dict[str, Array]:
    """Return the model's inputs by name, with the model's datatypes and the same number of rows, at least one.

    Raises:
        ArrayFileError: The file cannot be read, or its arrays are not the model's inputs.
    """
    arrays = _read(file)
    names = [spec.name for spec in info.inputs]
    if sorted(arrays) != sorted(names):
        raise ArrayFileError(
            f"{file} has the arrays {', '.join(sorted(arrays)) or 'none'}; model '{info.name}' has the inputs "
            f"{', '.join(names)}: save one array per input, with numpy.savez(FILE, **arrays)."
        )
    inputs = {spec.name: _cast(file, spec, arrays[spec.name]) for spec in info.inputs}
    rows = {array.shape[:1] for array in inputs.values()}
    if len(rows) != 1 or rows & {(), (0,)}:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
        raise ArrayFileError(f"{file}: all arrays must have the same number of rows first, 1 or more; got {shapes}.")
    return inputs


def _read(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ArrayFileError(f"{file} cannot be read as a {SUFFIX} file of arrays: {reason}.") from error


def _cast(file: Path, spec: TensorSpec, array: Array) -> Array:
    """Return the array in the model's datatype, if it is one of fewer bits or of another kind of number."""
    dtype = datatypes.BY_NAME[spec.datatype].numpy
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ArrayFileError(f"{file}: '{spec.name}' is {array.dtype}, but the model's input is {spec.datatype}.")
    return array.astype(dtype)
