"""Fully sampled recordings, slice by slice: what undersampled scans are taken from and compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import RecordingError
from edge_runtime.links.files import Recording, open_recording
from edge_runtime.links.files.slices import is_image, slice_keys
from edge_runtime.modalities.mri.fourier import Complex, centre_slice, to_image, to_kspace
from edge_runtime.scan import ReadoutBatch, SliceKey


@dataclass(frozen=True)
class FullySampled:
    """A recording whose every slice is measured once, line by line.

    Attributes:
        recording: read as `edge-runtime replay` reads it.
        keys: of the slices, in the order of their counters.
    """

    path: Path
    recording: Recording
    keys: tuple[SliceKey, ...]

    def kspaces(self, indices: Collection[int]) -> list[Complex]:
        """The k-space ``(coils, phase_encodes, samples)`` of some slices in the order of their counters, readout oversampling
        removed; one pass over the file, in which nothing of the others is kept.

        Raises:
            RecordingError: the file turns out to be damaged.
        """
        columns, lines, _ = self.recording.header.encoding.encoded.matrix
        coils = self.recording.header.scanner.receiver_coils or 1
        slices = {self.keys[index]: np.zeros((coils, lines, columns), np.complex64) for index in sorted(indices)}
        for key, of_slice in _lines_by_slice(self.recording):
            if key in slices:
                slices[key][:, of_slice.header["phase_encode"]] = of_slice.samples.transpose(1, 0, 2)
        kept = self.recording.header.encoding.recon.matrix[0]
        return [crop_readout(kspace, kept) for kspace in slices.values()]


def open_fully_sampled(path: Path) -> FullySampled:
    """Reads once through a recording.

    Raises:
        RecordingError: it can't be read, or measured a line of a slice twice or not at all.
    """
    recording = open_recording(path)
    lines = recording.header.encoding.encoded.matrix[1]
    measured: dict[SliceKey, np.ndarray[tuple[int], np.dtype[np.intp]]] = {}
    for key, of_slice in _lines_by_slice(recording):
        np.add.at(measured.setdefault(key, np.zeros(lines, np.intp)), of_slice.header["phase_encode"], 1)
    for key, times in measured.items():
        if not np.all(times == 1):
            raise RecordingError(
                f"{path}: {np.sum(times != 1)} of {lines} phase encodes of slice {key.slice} are not measured once; "
                "only a fully sampled scan can be compared with"
            )
    if not measured:
        raise RecordingError(f"{path}: no image lines")
    return FullySampled(path, recording, tuple(sorted(measured)))


def fully_sampled_slices(path: Path) -> list[Complex]:
    """The k-space ``(coils, phase_encodes, samples)`` of every slice of a recording, see `FullySampled.kspaces`.

    Raises:
        RecordingError: it can't be read, or measured a line of a slice twice or not at all.
    """
    opened = open_fully_sampled(path)
    return opened.kspaces(range(len(opened.keys)))


def _lines_by_slice(recording: Recording) -> Iterator[tuple[SliceKey, ReadoutBatch]]:
    """The image lines of the recording, a few of one slice at a time."""
    for batch in recording.readouts():
        image = batch[is_image(batch.header)]
        keys = slice_keys(image.header)
        for key in dict.fromkeys(keys):
            yield key, image[np.array([one == key for one in keys])]


def crop_readout(kspace: Complex, samples: int) -> Complex:
    """Keeps the central ``samples`` columns of the field of view: removes readout oversampling."""
    if kspace.shape[2] == samples:
        return kspace
    hybrid = to_image(kspace, axis=2)[:, :, centre_slice(kspace.shape[2], samples)]
    return np.asarray(to_kspace(hybrid, axis=2), dtype=np.complex64)
