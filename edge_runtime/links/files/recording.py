"""A recorded scan: what every file format becomes once it is opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError
from edge_runtime.scan import ReadoutBatch, ScanHeader

BATCH_READOUTS = 64
"""Readouts handed on at once: a second of a slow scan, and enough to make per-batch costs vanish."""

BATCH_BYTES = 32 << 20
"""Samples handed on at once, where readouts are so long that `BATCH_READOUTS` of them would be more."""

READOUT_BYTES = 256 << 20
"""Longest readout that is believed: 256 coils of 65535 samples are 134 MB."""


@dataclass(frozen=True)
class Recording:
    """A scan in a file, read anew each time `readouts` is called.

    Attributes:
        path: the file.
        format: in words, as shown to the user.
        header: the scan's header; what had to be assumed is in its notes.
        readout_count: all readouts, noise and calibration included.
        seconds_per_readout: pace of the real scan, None where the file does not tell.
        source: yields the batches; formats give it, callers use `readouts`.
    """

    path: Path
    format: str
    header: ScanHeader
    readout_count: int
    seconds_per_readout: float | None
    source: Callable[[], Iterator[ReadoutBatch]] = field(repr=False, compare=False)

    def readouts(self) -> Iterator[ReadoutBatch]:
        """Batches in the order of acquisition, each of one readout size; memory stays bounded by a few batches.

        Raises:
            RecordingError: while iterating, where the file turns out to be damaged.
        """
        return self.source()


def readouts_per_batch(coils: int, samples: int) -> int:
    """How many readouts of a size make a batch; at least one."""
    return max(1, min(BATCH_READOUTS, BATCH_BYTES // (8 * coils * samples)))


def finite(samples: npt.NDArray[np.complex64], path: Path, first_readout: int) -> npt.NDArray[np.complex64]:
    """The samples themselves.

    Raises:
        RecordingError: a sample is NaN or infinite.
    """
    if not np.isfinite(samples.view(np.float32)).all():
        raise RecordingError(
            f"{path}: NaN or infinite samples in the readouts from number {first_readout}; export the scan again"
        )
    return samples


def optional_package(path: Path, module: str, extra: str = "replay") -> Any:
    """A module that is not needed by every installation.

    Raises:
        RecordingError: it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise RecordingError(
            f"{path}: this format needs {package}: pip install -e '.[{extra}]' in edge-runtime's checkout"
        ) from None
