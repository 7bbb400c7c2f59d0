"""k-space in MATLAB files, as the 0.055 T scanner of Hong Kong University publishes it: one coil, no header.

An array ``(readout, phase_encodes[, slices[, averages]])``. Some files have the first two axes swapped; the readout of
that scanner has 128 samples, and where only one of the two axes is 128 long, it is the readout.

SciPy and h5py parse the bytes. Neither is hardened against hostile files (SciPy 1.17 can crash the interpreter on
damaged ones): open only those whose origin is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError
from edge_runtime.links.files.recording import Recording, finite, optional_package, readouts_per_batch
from edge_runtime.links.files.slices import mark_last_in_slice
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ScanHeader,
    Scanner,
)

READOUT_SAMPLES = 128
"""Samples of a readout of the HKU scanner."""

ARRAY_NAMES = ("kspace", "ksp", "k_space", "kdata")
"""Names under which k-space is looked for before any other."""

MAX_BYTES = 1 << 30
"""Largest array that is read; it is held in memory."""

MAX_AXIS = 65535


def open_hku_mat(path: Path, array: str | None) -> Recording:
    """Open a k-space array of a ``.mat`` file (version 5, 7 or 7.3).

    Args:
        array: the variable's name; None takes a usual name or the only complex array.

    Raises:
        RecordingError: SciPy or h5py (for 7.3) is missing, the file is damaged, or holds no such array.
    """
    kspace, name = _read(path, array)
    notes = [
        f"a MATLAB array {name!r} without header: field of view and thickness are unknown, 1 mm a voxel is written",
        "the file names no orientation and no timing: the image has no directions",
        "the order of acquisition is not in the file: lines, then averages, then slices are assumed",
    ]
    if kspace.shape[1] == READOUT_SAMPLES != kspace.shape[0]:
        kspace = kspace.swapaxes(0, 1)
        notes.append(f"axes swapped: the axis of {READOUT_SAMPLES} samples is taken for the readout")
    samples, lines, slices, averages = kspace.shape
    readouts = np.zeros(slices * averages * lines, READOUT_DTYPE)
    order = np.arange(len(readouts))
    readouts["phase_encode"] = order % lines
    readouts["average"] = order // lines % averages
    readouts["slice"] = order // (lines * averages)
    readouts["scan_counter"] = order
    readouts["centre_sample"] = samples // 2
    mark_last_in_slice(readouts)
    space = EncodingSpace((samples, lines, 1), (float(samples), float(lines), 1.0))
    header = ScanHeader(
        encoding=MriEncoding(
            encoded=space,
            recon=space,
            trajectory="cartesian",
            limits={
                "kspace_encoding_step_1": Limit(0, lines - 1, lines // 2),
                "slice": Limit(0, slices - 1),
                "average": Limit(0, averages - 1),
            },
        ),
        scanner=Scanner(receiver_coils=1),
        series_description=path.stem[:64],
        notes=tuple(notes),
    )
    return Recording(path, "MATLAB k-space", header, len(readouts), None, lambda: _batches(path, kspace, readouts))


def _batches(
    path: Path, kspace: npt.NDArray[np.complexfloating[Any, Any]], readouts: npt.NDArray[np.void]
) -> Iterator[ReadoutBatch]:
    step = readouts_per_batch(1, kspace.shape[0])
    for first in range(0, len(readouts), step):
        head = readouts[first : first + step].copy()
        chosen = kspace[:, head["phase_encode"], head["slice"], head["average"]]
        with np.errstate(over="ignore", invalid="ignore"):  # a number too large for complex64 is refused as infinite
            samples = np.ascontiguousarray(chosen.T[:, None, :], np.complex64)
        yield ReadoutBatch(head, finite(samples, path, first))


def _read(path: Path, array: str | None) -> tuple[npt.NDArray[np.complexfloating[Any, Any]], str]:
    """The array as ``(axis 0, axis 1, slices, averages)`` and its name."""
    with open(path, "rb") as file:
        is_hdf5 = file.read(512).startswith(b"MATLAB 7.3")
    try:
        kspace, name = _read_hdf5(path, array) if is_hdf5 else _read_level_5(path, array)
    except RecordingError:
        raise
    except Exception as error:  # the libraries fail in any way on damaged bytes
        raise RecordingError(
            f"{path}: no readable MATLAB file ({type(error).__name__}: {error}); copy it again from its source"
        ) from None
    if not 2 <= kspace.ndim <= 4 or kspace.dtype.kind != "c":
        raise RecordingError(
            f"{path}: {name} is {kspace.dtype} of shape {kspace.shape}; "
            "complex (readout, phase_encodes[, slices[, averages]]) is read"
        )
    if not all(1 <= length <= MAX_AXIS for length in kspace.shape):
        raise RecordingError(f"{path}: {name} has the shape {kspace.shape}; axes of 1 to {MAX_AXIS} are read")
    return kspace.reshape(*kspace.shape, *(1,) * (4 - kspace.ndim)), name


def _choose(path: Path, found: dict[str, tuple[int, ...]], array: str | None) -> str:
    """The name of the array to read, of those with two to four axes."""
    names = [name for name, shape in found.items() if 2 <= len(shape) <= 4 and min(shape[:2]) > 1]
    wanted = (
        [array] if array is not None else [*(n for n in ARRAY_NAMES if n in names), *(names if len(names) == 1 else [])]
    )
    chosen = next((name for name in wanted if name in names), None)
    if chosen is None:
        listed = ", ".join(f"{name} {shape}" for name, shape in list(found.items())[:20]) or "nothing"
        mend = "choose one with --dataset NAME" if names else "k-space of two to four axes is read"
        raise RecordingError(f"{path}: no array {array or 'kspace or ksp'}; the file holds {listed}; {mend}")
    size = 16 * int(np.prod([int(n) for n in found[chosen]], dtype=object))
    if size > MAX_BYTES:
        raise RecordingError(
            f"{path}: {chosen} of shape {found[chosen]} needs {size} bytes; at most {MAX_BYTES} are read"
        )
    return chosen


def _read_level_5(path: Path, array: str | None) -> tuple[npt.NDArray[Any], str]:
    scipy_io = optional_package(path, "scipy.io")
    found = {name: shape for name, shape, kind in scipy_io.whosmat(str(path)) if kind in ("double", "single")}
    chosen = _choose(path, found, array)
    return scipy_io.loadmat(str(path), variable_names=[chosen])[chosen], chosen


def _read_hdf5(path: Path, array: str | None) -> tuple[npt.NDArray[Any], str]:
    h5py = optional_package(path, "h5py")
    with h5py.File(path, "r") as file:
        found = {
            name: tuple(item.shape[::-1])
            for name, item in file.items()
            if isinstance(item, h5py.Dataset) and item.dtype.names == ("real", "imag")
        }
        chosen = _choose(path, found, array)
        stored = file[chosen][()].transpose()  # MATLAB writes the first axis last
    return stored["real"] + 1j * stored["imag"], chosen
