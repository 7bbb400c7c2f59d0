"""Which format a recorded scan has: told by its first bytes, never by its name."""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.errors import RecordingError
from edge_runtime.links.files.hku_mat import open_hku_mat
from edge_runtime.links.files.ismrmrd_hdf5 import open_ismrmrd_hdf5
from edge_runtime.links.files.mrd_stream import open_mrd_stream
from edge_runtime.links.files.recording import Recording
from edge_runtime.links.files.twix import looks_like_twix, open_twix

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MATLAB_SIGNATURE = b"MATLAB "
STREAM_STARTS = (b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x05\x00")
"""Ids of the messages a conversation can begin with: config file, config text, header, text."""

FIRST_BYTES = 512
"""Enough for every test, the longest of which looks for the name of the first buffer of a twix header."""


def open_recording(path: str | Path, dataset: str | None = None) -> Recording:
    """Open a recorded scan of any known format.

    Args:
        dataset: which scan of a file that may hold several: the group of an ISMRMRD HDF5 file, the array of a MATLAB file.

    Returns:
        The recording; nothing of the file is held open.

    Raises:
        RecordingError: the file can't be read, has no known format, is damaged, or lacks a package to read it.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            first = file.read(FIRST_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    if first.startswith(HDF5_SIGNATURE):
        return open_ismrmrd_hdf5(path, dataset)
    if first.startswith(MATLAB_SIGNATURE):
        return open_hku_mat(path, dataset)
    if dataset is not None:
        raise RecordingError(f"{path}: no dataset {dataset!r}: files of this format hold one scan; leave --dataset out")
    if looks_like_twix(first, size):
        return open_twix(path)
    if first.startswith(STREAM_STARTS):
        return open_mrd_stream(path)
    raise RecordingError(
        f"{path}: starts with {first[:8].hex(' ') or 'nothing'}; "
        "known are ISMRMRD HDF5, MRD streams, Siemens twix and MATLAB k-space"
    )
