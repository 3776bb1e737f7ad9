"""The array types of the export package."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Images = npt.NDArray[np.uint8]  # (N, H, W, C)
