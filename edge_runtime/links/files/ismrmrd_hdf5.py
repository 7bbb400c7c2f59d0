"""ISMRMRD HDF5 files (``.h5``, ``.mrd``), read with h5py alone.

A group (``dataset`` by custom) holds ``xml`` and ``data``: one record a readout with its header and two variable-length
arrays. What a record claims is compared with what it holds. The HDF5 library itself is not hardened against hostile
files: open only those whose origin is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError, ScanRefused
from edge_runtime.links.files.recording import READOUT_BYTES, Recording, finite, optional_package, readouts_per_batch
from edge_runtime.links.mrd_header import MAX_HEADER_BYTES, parse_header
from edge_runtime.scan import READOUT_DTYPE, ReadoutBatch, ScanHeader

HEAD_FIELDS = {
    "flags": "flags",
    "scan_counter": "scan_counter",
    "time_stamp": "acquisition_time_stamp",
    "centre_sample": "center_sample",
    "discard_pre": "discard_pre",
    "discard_post": "discard_post",
    "encoding_space": "encoding_space_ref",
    "sample_time_us": "sample_time_us",
    "position": "position",
    "read_direction": "read_dir",
    "phase_direction": "phase_dir",
    "slice_direction": "slice_dir",
}
"""Runtime's name to ISMRMRD's."""

COUNTER_FIELDS = {
    "phase_encode": "kspace_encode_step_1",
    "partition": "kspace_encode_step_2",
    **{name: name for name in ("average", "slice", "contrast", "phase", "repetition", "set", "segment")},
}


def open_ismrmrd_hdf5(path: Path, dataset: str | None) -> Recording:
    """Open one dataset of an ISMRMRD HDF5 file.

    Args:
        dataset: the group's name; None takes ``dataset`` or the only group that holds a scan.

    Raises:
        RecordingError: h5py is missing, or the file is damaged or holds no such scan.
    """
    h5py = optional_package(path, "h5py")
    try:
        with h5py.File(path, "r") as file:
            group = _group(path, file, dataset)
            header = _header(path, file[group]["xml"])
            data = file[group]["data"]
            _check_type(path, data)
            count = int(data.shape[0])
            if count < 1:
                raise RecordingError(f"{path}: group {group} holds no readouts; record the scan again")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None
    times = header.sequence.repetition_time_ms
    pace = times[0] / 1000.0 if times and times[0] > 0 else None
    return Recording(path, "ISMRMRD HDF5", header, count, pace, lambda: _batches(path, group))


def _damaged(path: Path, error: Exception) -> RecordingError:
    return RecordingError(f"{path}: no readable ISMRMRD HDF5 file ({error}); copy it again from its source")


def _group(path: Path, file: Any, dataset: str | None) -> str:
    scans = sorted(
        str(name) for name in file if hasattr(file[name], "keys") and {"xml", "data"} <= set(file[name].keys())
    )
    if dataset is not None:
        if dataset in scans:
            return dataset
        raise RecordingError(f"{path}: no scan in group {dataset!r}; the file holds {', '.join(scans) or 'none'}")
    if "dataset" in scans:
        return "dataset"
    if len(scans) == 1:
        return scans[0]
    found = (
        f"scans in {', '.join(scans)}; choose one with --dataset NAME"
        if scans
        else "no group with xml and data: no raw MRD scan"
    )
    raise RecordingError(f"{path}: {found}")


def _header(path: Path, xml: Any) -> ScanHeader:
    if xml.size != 1:
        raise RecordingError(f"{path}: {xml.size} XML headers; a scan has one")
    if xml.dtype.kind == "S" and xml.dtype.itemsize > MAX_HEADER_BYTES:
        raise RecordingError(
            f"{path}: an XML header of {xml.dtype.itemsize} bytes; at most {MAX_HEADER_BYTES} are read"
        )
    text = xml[()] if xml.shape == () else xml[0]
    try:
        return parse_header(text.encode() if isinstance(text, str) else bytes(text))
    except ScanRefused as error:
        raise RecordingError(f"{path}: {error}") from None


def _check_type(path: Path, data: Any) -> None:
    names = set(data.dtype.names or ())
    head = set(data.dtype["head"].names or ()) if "head" in names else set()
    counters = set(data.dtype["head"]["idx"].names or ()) if "idx" in head else set()
    missing = ({"head", "data"} - names) | ({*HEAD_FIELDS.values(), "number_of_samples", "active_channels"} - head)
    missing |= set(COUNTER_FIELDS.values()) - counters
    if missing or len(data.shape) != 1:
        raise RecordingError(f"{path}: readouts without {', '.join(sorted(missing)) or 'order'}: no ISMRMRD raw data")


def _batches(path: Path, group: str) -> Iterator[ReadoutBatch]:
    h5py = optional_package(path, "h5py")
    try:
        with h5py.File(path, "r") as file:
            data = file[group]["data"]
            first, count = 0, int(data.shape[0])
            while first < count:
                heads = data.fields("head")[first : first + readouts_per_batch(1, 1)]
                coils, samples = int(heads["active_channels"][0]), int(heads["number_of_samples"][0])
                if not 0 < 8 * coils * samples <= READOUT_BYTES:
                    raise RecordingError(
                        f"{path}: readout {first} has {coils} coils of {samples} samples; record it again"
                    )
                same = (heads["active_channels"] == coils) & (heads["number_of_samples"] == samples)
                alike = len(same) if same.all() else int(np.argmin(same))
                last = first + min(alike, readouts_per_batch(coils, samples))
                rows = data.fields("data")[first:last]
                yield ReadoutBatch(_readout_headers(heads[: last - first]), _samples(path, first, rows, coils, samples))
                first = last
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise _damaged(path, error) from None


def _readout_headers(heads: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    readouts = np.zeros(len(heads), READOUT_DTYPE)
    for name, source in HEAD_FIELDS.items():
        readouts[name] = heads[source]
    for name, source in COUNTER_FIELDS.items():
        readouts[name] = heads["idx"][source]
    return readouts


def _samples(path: Path, first: int, rows: Any, coils: int, samples: int) -> npt.NDArray[np.complex64]:
    out = np.empty((len(rows), coils, samples), np.complex64)
    for i, row in enumerate(rows):
        numbers = np.asarray(row, np.float32)
        if numbers.size != 2 * coils * samples:
            raise RecordingError(
                f"{path}: readout {first + i} holds {numbers.size // 2} samples; its header says {coils} x {samples}"
            )
        out[i] = numbers.view(np.complex64).reshape(coils, samples)
    return finite(out, path, first)
