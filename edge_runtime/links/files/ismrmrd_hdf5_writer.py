"""ISMRMRD HDF5 files (``.h5``), written with h5py alone, in the layout that the `ismrmrd` libraries read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError
from edge_runtime.links.files.recording import optional_package
from edge_runtime.links.mrd_header import format_header
from edge_runtime.links.mrd_messages import ACQUISITION_HEADER
from edge_runtime.links.mrd_pack import acquisition_headers
from edge_runtime.scan import COUNTERS, ReadoutBatch, ScanHeader

GROUP = "dataset"

NAMES = {
    "time_stamp": "acquisition_time_stamp",
    "physiology": "physiology_time_stamp",
    "samples": "number_of_samples",
    "available_coils": "available_channels",
    "active_coils": "active_channels",
    "coil_mask": "channel_mask",
    "centre_sample": "center_sample",
    "encoding_space": "encoding_space_ref",
    "read_direction": "read_dir",
    "phase_direction": "phase_dir",
    "slice_direction": "slice_dir",
    "table_position": "patient_table_position",
}
"""ISMRMRD's name for the runtime's, where they differ."""

COUNTER_NAMES = {"phase_encode": "kspace_encode_step_1", "partition": "kspace_encode_step_2", "user_counters": "user"}


def write_ismrmrd_hdf5(path: str | Path, header: ScanHeader, batches: Iterable[ReadoutBatch]) -> int:
    """Write a scan as the group ``dataset`` of an HDF5 file; the file appears under its name once it is complete.

    Returns:
        The number of readouts written.

    Raises:
        RecordingError: h5py is missing, or the file can't be written.
        ValueError: readouts that MRD can't hold.
    """
    target = Path(path)
    h5py = optional_package(target, "h5py")
    partial = target.with_name(target.name + ".partial")
    head, numbers = _head_type(), h5py.vlen_dtype(np.dtype("<f4"))
    record = np.dtype([("head", head), ("traj", numbers), ("data", numbers)])
    count = 0
    try:
        with h5py.File(partial, "w") as file:
            group = file.create_group(GROUP)
            group.create_dataset("xml", data=[format_header(header).encode()], dtype=h5py.string_dtype())
            data = group.create_dataset("data", (0,), record, maxshape=(None,), chunks=(64,))
            for batch in batches:
                data.resize((count + len(batch),))
                data[count : count + len(batch)] = _records(batch, record)
                count += len(batch)
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise RecordingError(f"{target}: can't be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return count


def _head_type() -> np.dtype[Any]:
    """`ACQUISITION_HEADER` with ISMRMRD's names, its counters in one member ``idx``."""
    fields: list[tuple[str, Any]] = []
    counters: list[tuple[str, Any]] = []
    for name in ACQUISITION_HEADER.names or ():
        kind = ACQUISITION_HEADER[name]
        if name in (*COUNTERS, "user_counters"):
            counters.append((COUNTER_NAMES.get(name, name), kind))
            if name == "user_counters":
                fields.append(("idx", np.dtype(counters)))
        else:
            fields.append((NAMES.get(name, name), kind))
    return np.dtype(fields)


def _records(batch: ReadoutBatch, record: np.dtype[Any]) -> npt.NDArray[np.void]:
    headers = acquisition_headers(batch)
    records = np.zeros(len(batch), record)
    for name in ACQUISITION_HEADER.names or ():
        if name in (*COUNTERS, "user_counters"):
            records["head"]["idx"][COUNTER_NAMES.get(name, name)] = headers[name]
        else:
            records["head"][NAMES.get(name, name)] = headers[name]
    for i, samples in enumerate(batch.samples):
        records["traj"][i] = np.zeros(0, np.float32)
        records["data"][i] = np.ascontiguousarray(samples).view(np.float32).ravel()
    return records
