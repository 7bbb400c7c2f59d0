"""What a simulated scanner measures, and in which order: recordings made from recordings.

Both transforms read the recording's readout headers once when they are made and its samples only while it is played.
Readouts that are not lines of an image (noise, calibration, phase correction) pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError
from edge_runtime.links.files.recording import Recording, readouts_per_batch
from edge_runtime.links.files.slices import is_image, mark_last_in_slice, slice_keys
from edge_runtime.modalities.mri.sampling import effective_acceleration
from edge_runtime.scan import READOUT_DTYPE, Limit, ReadoutBatch, ReadoutFlag, SliceKey

Order: TypeAlias = Literal["as recorded", "centre-out", "linear"]
ORDERS: tuple[Order, ...] = get_args(Order)

BUFFER_BYTES = 1 << 30
"""Samples that reordering may hold back; a slice of 32 coils × 512 × 512 is 67 MB."""

_MOVED = np.uint64(
    ReadoutFlag.FIRST_IN_ENCODE_STEP1
    | ReadoutFlag.LAST_IN_ENCODE_STEP1
    | ReadoutFlag.FIRST_IN_SLICE
    | ReadoutFlag.LAST_IN_SLICE
    | ReadoutFlag.LAST_IN_MEASUREMENT
)
"""Flags that belong to a place in the order, not to a line."""


def undersampled(recording: Recording, keep: npt.NDArray[np.bool_]) -> Recording:
    """The scan that measures only some phase encodes; each slice ends with the last of them.

    Args:
        keep: ``(phase_encodes,)``, for example from `edge_runtime.modalities.mri.sampling`; index 0 is phase encode 0.

    Raises:
        ValueError: the mask has another length than the encoded matrix, or keeps nothing that was recorded.
        RecordingError: the recording is damaged.
    """
    lines = recording.header.encoding.encoded.matrix[1]
    if keep.shape != (lines,) or not keep.any():
        raise ValueError(
            f"a mask of shape {keep.shape} with {int(keep.sum())} kept; {lines} phase encodes, some kept, are needed"
        )
    headers = _all_headers(recording)
    outside = headers["phase_encode"] >= lines
    chosen = ~is_image(headers) | np.where(outside, False, keep[np.minimum(headers["phase_encode"], lines - 1)])
    played = _most_lines(headers[chosen & is_image(headers)])
    if not played:
        raise ValueError("the mask keeps none of the phase encodes that were recorded")
    factor = effective_acceleration(keep)
    encoding = recording.header.encoding
    header = replace(
        recording.header,
        encoding=replace(encoding, acceleration=(max(1, round(factor)), encoding.acceleration[1])),
        parameters={
            **recording.header.parameters,
            "retrospective_acceleration": f"{factor:.4g}",
            "edge_expected_lines": str(played),
        },
        notes=(
            *recording.header.notes,
            f"undersampled after the fact: {played} of {lines} phase encodes are played",
        ),
    )
    return _arranged(recording, headers, np.flatnonzero(chosen), header=header)


def _most_lines(image_lines: npt.NDArray[np.void]) -> int:
    """Phase encodes of the slice that has most of them."""
    places: dict[SliceKey, set[int]] = {}
    for key, line in zip(slice_keys(image_lines), image_lines["phase_encode"].tolist(), strict=True):
        places.setdefault(key, set()).add(line)
    return max(map(len, places.values()), default=0)


def reordered(recording: Recording, order: Order) -> Recording:
    """The scan that measures the lines of every slice in another order.

    Lines change places within their slice and average; partitions stay together. Time stamps and scan counters stay
    with the place, not with the line. Lines wait in memory until their turn: at most about one slice, more where slices
    interleave.

    Args:
        order: "centre-out" begins at the centre that the header names (0, -1, +1, -2, …); "linear" runs from line 0 on.

    Raises:
        ValueError: an unknown order.
        RecordingError: the recording is damaged; or, while playing, `BUFFER_BYTES` do not suffice.
    """
    if order not in ORDERS:
        raise ValueError(f"order {order!r}; known are {', '.join(ORDERS)}")
    if order == "as recorded":
        return recording
    headers = _all_headers(recording)
    encoding = recording.header.encoding
    default = Limit(centre=encoding.encoded.matrix[1] // 2)
    centre = encoding.limits.get("kspace_encoding_step_1", default).centre
    offset = headers["phase_encode"].astype(np.int64) - centre
    rank = np.where(offset < 0, -2 * offset - 1, 2 * offset) if order == "centre-out" else offset

    places: dict[SliceKey, list[int]] = {}
    for place, (key, image) in enumerate(zip(slice_keys(headers), is_image(headers), strict=True)):
        if image:
            places.setdefault(key, []).append(place)
    source = np.arange(len(headers))
    for slots in places.values():
        at = np.asarray(slots)
        by_rank = np.lexsort((rank[at], headers["partition"][at], headers["average"][at]))
        source[at] = at[by_rank]
    header = replace(recording.header, notes=(*recording.header.notes, f"lines are played in the order {order}"))
    return _arranged(recording, headers, source, header=header)


def _arranged(
    recording: Recording, headers: npt.NDArray[np.void], source: npt.NDArray[np.intp], **changes: object
) -> Recording:
    """The recording whose readout ``i`` is readout ``source[i]`` of another; flags of the order are assigned anew."""
    moved = headers[source]
    places = np.sort(source)
    for name in ("time_stamp", "scan_counter"):
        moved[name] = headers[name][places]
    ends = bool((headers["flags"] & np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)).any())
    image = is_image(moved)
    moved["flags"] = np.where(image, moved["flags"] & ~_MOVED, moved["flags"])
    mark_last_in_slice(moved)
    first = {key: i for i, (key, line) in reversed(list(enumerate(zip(slice_keys(moved), image, strict=True)))) if line}
    moved["flags"][list(first.values())] |= np.uint64(ReadoutFlag.FIRST_IN_SLICE)
    if ends:
        moved["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)
    rearranged = _player_of(recording, source, moved)
    return replace(recording, readout_count=len(source), source=rearranged, **changes)  # type: ignore[arg-type]


def _player_of(
    recording: Recording, source: npt.NDArray[np.intp], headers: npt.NDArray[np.void]
) -> Callable[[], Iterator[ReadoutBatch]]:
    wanted = set(source.tolist())

    def rearranged() -> Iterator[ReadoutBatch]:
        waiting: dict[int, npt.NDArray[np.complex64]] = {}
        held = 0
        place = 0
        ordinal = 0
        for batch in recording.readouts():
            for i in range(len(batch)):
                if ordinal + i in wanted:
                    waiting[ordinal + i] = batch.samples[i].copy()
                    held += batch.samples[i].nbytes
            ordinal += len(batch)
            if held > BUFFER_BYTES:
                raise RecordingError(
                    f"{recording.path}: slices interleave: reordering would hold {held} bytes; play it as recorded"
                )
            ready: list[npt.NDArray[np.complex64]] = []
            first = place
            while place < len(source) and int(source[place]) in waiting:
                ready.append(waiting.pop(int(source[place])))
                held -= ready[-1].nbytes
                place += 1
            yield from _batches(headers[first:place], ready)
        if place < len(source):
            raise RecordingError(
                f"{recording.path}: {ordinal} readouts where {recording.readout_count} were counted: it changed"
            )

    return rearranged


def _batches(headers: npt.NDArray[np.void], rows: list[npt.NDArray[np.complex64]]) -> Iterator[ReadoutBatch]:
    start = 0
    while start < len(rows):
        stop = start + 1
        limit = start + readouts_per_batch(*rows[start].shape)
        while stop < min(limit, len(rows)) and rows[stop].shape == rows[start].shape:
            stop += 1
        yield ReadoutBatch(headers[start:stop].copy(), np.stack(rows[start:stop]))
        start = stop


def _all_headers(recording: Recording) -> npt.NDArray[np.void]:
    """``(readouts,)`` of `READOUT_DTYPE`, a writable copy."""
    headers = np.zeros(recording.readout_count, READOUT_DTYPE)
    at = 0
    for batch in recording.readouts():
        if at + len(batch) > len(headers):
            raise RecordingError(
                f"{recording.path}: more than the {len(headers)} readouts that were counted: it changed"
            )
        for name in READOUT_DTYPE.names or ():
            headers[name][at : at + len(batch)] = batch.header[name]
        at += len(batch)
    if at != len(headers):
        raise RecordingError(f"{recording.path}: {at} readouts where {len(headers)} were counted: it changed")
    return headers
