"""What plans take and give."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex64]
Lines = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Planes = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float32]
Tensor = npt.NDArray[np.float32]
Size = tuple[int, int]
"""Lines (phase encodes) and columns."""

Where = Literal["cpu", "cuda"]
"""What a plan runs on."""
