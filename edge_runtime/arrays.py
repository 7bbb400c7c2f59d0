"""Arrays in a GPU's memory, which plans hand on to each other without a copy to the host in between."""

from __future__ import annotations

from types import EllipsisType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

Part = int | slice | EllipsisType
Key = Part | tuple[Part, ...]


class Memory(Protocol):
    """A piece of a GPU's memory, which is free again when nobody holds it any more."""

    @property
    def address(self) -> int: ...

    def fetch(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A copy of a part of it, once everything that was launched before is done."""


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in a GPU's memory.

    The plans made for that GPU take it as they take NumPy's, and make such arrays where no ``out`` is given; NumPy's functions take
    it too, by a copy to the host, which waits for the GPU.

    Args:
        memory: holds it.
        layout: its shape, strides and type, as an array that may lie anywhere: its elements are never touched.
        origin: where that array would begin if it were the whole memory.
    """

    def __init__(self, memory: Memory, layout: npt.NDArray[Any], origin: int) -> None:
        self._memory, self.layout, self._origin = memory, layout, origin

    @classmethod
    def over(cls, memory: Memory, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """All of the memory, in C order."""
        one = np.zeros(1, dtype)
        strides = np.cumprod((one.itemsize, *shape[:0:-1]))[::-1] if shape else ()
        return cls(memory, as_strided(one, shape, tuple(int(stride) for stride in strides)), _address(one))

    @property
    def address(self) -> int:
        """In the GPU's memory."""
        return self._memory.address + _address(self.layout) - self._origin

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, key: Key) -> DeviceArray:
        """A view; a single number is none."""
        parts = key if isinstance(key, tuple) else (key,)
        numbers = sum(isinstance(part, int) for part in parts)
        if not all(isinstance(part, Part) for part in parts) or numbers >= self.layout.ndim:
            raise TypeError(f"{key!r}: a GPU's array is indexed by slices; np.asarray copies it to the host")
        return DeviceArray(self._memory, self.layout[key], self._origin)

    def transpose(self, *axes: int) -> DeviceArray:
        """A view."""
        return DeviceArray(self._memory, self.layout.transpose(*axes), self._origin)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("an array in a GPU's memory is only seen by a copy")
        low, high = byte_bounds(self.layout)
        held = self._memory.fetch(low - self._origin, high - low)
        begin = _address(self.layout) - low
        whole: npt.NDArray[Any] = np.ndarray(self.shape, self.dtype, held, begin, self.layout.strides)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        on_host = (np.asarray(value) if isinstance(value, DeviceArray) else value for value in inputs)
        return getattr(ufunc, method)(*on_host, **options)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"


def _address(array: npt.NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
