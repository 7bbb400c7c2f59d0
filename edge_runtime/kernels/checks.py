"""What every argument of a plan is held against; what is wrong is named with what was expected and what came."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ArgumentError

LARGEST = 2**20
"""Of any axis; MRD counts samples and lines in 16 bits."""

LEAST_NUMBER, LARGEST_NUMBER = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

LARGEST_PLANE = 2**26
"""Partitions x phase encodes, whose packed elements kernels count in 32 bits."""


def whole(name: str, value: int, least: int, most: int = 2**31 - 1) -> None:
    try:
        within = least <= operator.index(value) <= most
    except TypeError:
        within = False
    if not within:
        raise ArgumentError(name, value, f"a whole number, {least} to {most}")


def positive(**sizes: int) -> None:
    for name, size in sizes.items():
        whole(name, size, 1, LARGEST)


def finite(name: str, value: float, least: float = -math.inf) -> None:
    """In single precision, as kernels take it."""
    try:
        within = least <= value and abs(value) <= LARGEST_NUMBER  # NaN is not
    except TypeError:
        within = False
    if not within:
        raise ArgumentError(name, value, f"{'a number' if least < 0 else '0 or more'}, finite in single precision")


def divisor(name: str, value: float) -> None:
    """Positive, and its reciprocal finite in single precision."""
    try:
        within = LEAST_NUMBER <= value <= LARGEST_NUMBER  # NaN is not
    except TypeError:
        within = False
    if not within:
        raise ArgumentError(name, value, "a positive number of single precision")


def pair(name: str, size: object) -> None:
    """Points of two axes."""
    if not isinstance(size, tuple) or len(size) != 2:
        raise ArgumentError(name, size, "two sizes")
    for points in size:
        whole(name, points, 1, LARGEST)


def stopping(steps: int, tolerance: float) -> None:
    whole("steps", steps, 0)
    finite("tolerance", tolerance, least=0.0)


def checked(
    name: str, array: object, dtype: type[np.generic], shape: tuple[int | None, ...], **wanted: bool
) -> npt.NDArray[Any]:
    """The array itself, or a view of one of another library, if it is what is wanted; see `check`."""
    if not isinstance(array, np.ndarray):
        try:
            array = np.from_dlpack(array, copy=False)  # type: ignore[arg-type]  # what has no __dlpack__ is refused below
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ArgumentError(
                name, type(array).__name__, f"a NumPy array, or DLPack in CPU memory ({error})"
            ) from None
    check(name, array, dtype, shape, **wanted)
    return array


def check(
    name: str,
    array: npt.NDArray[Any],
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    *,
    contiguous: bool = True,
    writeable: bool = False,
) -> None:
    if array.dtype != dtype:
        raise ArgumentError(name, f"dtype {array.dtype}", f"dtype {np.dtype(dtype)}")
    if array.ndim != len(shape) or any(
        want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ArgumentError(name, f"shape {array.shape}", f"shape ({wanted}{',' * (len(shape) == 1)})")
    if contiguous and not array.flags.c_contiguous:
        raise ArgumentError(name, f"strides {array.strides}", "C order without gaps")
    if contiguous and not array.flags.aligned:
        raise ArgumentError(name, "an address that is not a multiple of its number's size", "aligned memory")
    if writeable and not array.flags.writeable:
        raise ArgumentError(name, "a read-only array", "one that can be written")
