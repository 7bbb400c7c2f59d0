"""Which readouts make one image, and which of them is its last."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from edge_runtime.scan import BESIDE_THE_IMAGE, ReadoutFlag, SliceKey

NOT_IMAGE = functools.reduce(
    ReadoutFlag.__or__, (*BESIDE_THE_IMAGE, ReadoutFlag.IS_NOISE_MEASUREMENT, ReadoutFlag.IS_PARALLEL_CALIBRATION)
)
"""A readout with any of these flags is not a line of an image."""


def is_image(header: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """``(readouts,)``: which readouts are lines of an image."""
    return np.asarray((header["flags"] & np.uint64(NOT_IMAGE)) == 0)


def slice_keys(header: npt.NDArray[np.void]) -> list[SliceKey]:
    """The image each readout belongs to, one key a readout."""
    columns = (header[name].tolist() for name in ("slice", "contrast", "phase", "repetition", "set"))
    return [SliceKey(*values) for values in zip(*columns, strict=True)]


def mark_last_in_slice(header: npt.NDArray[np.void]) -> None:
    """Give LAST_IN_SLICE to the last image line of every slice of a whole scan, and take it from all others. In
    place."""
    last = {key: i for i, (key, image) in enumerate(zip(slice_keys(header), is_image(header), strict=True)) if image}
    header["flags"] &= ~np.uint64(ReadoutFlag.LAST_IN_SLICE)
    header["flags"][list(last.values())] |= np.uint64(ReadoutFlag.LAST_IN_SLICE)
