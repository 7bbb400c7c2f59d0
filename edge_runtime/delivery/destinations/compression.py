"""Lossless compression on the way: the file in the outbox stays as it is; what is sent holds the same pixels under the same UID.

JPEG-LS is preferred, as it is several times as fast as JPEG 2000 and makes magnitude images as small. What was compressed is
decompressed again and compared before it is sent; where that fails, or nothing is gained, the object goes as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from edge_runtime.delivery.configuration import Destination
from edge_runtime.errors import DeliveryConfigurationError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

LARGEST_BYTES = 256 << 20
"""Of an object that is compressed: it is held in memory meanwhile."""

SYNTAXES = (str(JPEGLSLossless), str(JPEG2000Lossless))
"""Transfer syntaxes, the preferred first."""

_LATEST_WEIGHT = 0.3


class LinkSpeed:
    """How fast objects leave on one connection: a mean in which the latest count most.

    Args:
        bytes_per_s: what is known beforehand, such as a cap; ``None``: nothing.
    """

    def __init__(self, bytes_per_s: float | None = None) -> None:
        self.bytes_per_s = bytes_per_s

    def sent(self, size_bytes: int, seconds: float) -> None:
        """An object was answered."""
        latest = size_bytes / max(seconds, 1e-6)
        if self.bytes_per_s is None:
            self.bytes_per_s = latest
        else:
            self.bytes_per_s += _LATEST_WEIGHT * (latest - self.bytes_per_s)

    def is_slow(self, below_bytes_per_s: float) -> bool:
        """Whether it is known to be slower than that."""
        return self.bytes_per_s is not None and self.bytes_per_s < below_bytes_per_s


def offered(destination: Destination) -> tuple[str, ...]:
    """Transfer syntaxes that a destination is offered beside that of its objects.

    Raises:
        DeliveryConfigurationError: its configuration asks for compression, and no encoder is installed; says how to.
    """
    if destination.compress == "never":
        return ()
    from pydicom.pixels.encoders.base import get_encoder

    found = tuple(syntax for syntax in SYNTAXES if get_encoder(syntax).is_available)
    if not found:
        raise DeliveryConfigurationError(
            f"destination {destination.name!r}: compress = {destination.compress!r} needs an encoder, and none is installed: "
            "pip install 'edge-runtime[compression]'"
        )
    return found


def compressed(path: Path, accepted: Collection[str]) -> Dataset | None:
    """An object in the best compressed transfer syntax that is accepted.

    Args:
        path: of its file, uncompressed.
        accepted: transfer syntaxes.

    Returns:
        ``None`` where none of them compresses, the object has no pixels, it is too large, or nothing would be gained.
    """
    from pydicom import dcmread

    syntax = next((one for one in SYNTAXES if one in accepted), None)
    if syntax is None or path.stat().st_size > LARGEST_BYTES:
        return None
    dataset = dcmread(path)
    if "PixelData" not in dataset or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return None
    pixels: bytes = dataset.PixelData
    try:
        # The pixels stay the same, and so does the UID that stands for them.
        dataset.compress(syntax, generate_instance_uid=False)
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
        log.warning("%s can't be compressed and goes as it is: %s", path.name, error)
        return None
    if not _holds(dataset, pixels):
        log.error("%s is not the same after compression and goes as it is", path.name)
        return None
    return dataset if len(dataset.PixelData) < len(pixels) else None


def _holds(dataset: Dataset, pixels: bytes) -> bool:
    """Whether the frames of a compressed dataset are these pixels."""
    from pydicom.pixels.utils import iter_pixels

    at = 0
    for frame in iter_pixels(dataset, raw=True):
        content = frame.tobytes()
        if content != pixels[at : at + len(content)]:
            return False
        at += len(content)
    return len(pixels) - at in (0, 1)  # one byte of padding to an even length
