"""Fully sampled recordings, slice by slice: what undersampled scans are taken from and compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.errors import RecordingError
from edge_runtime.links.files import open_recording
from edge_runtime.links.files.slices import is_image, slice_keys
from edge_runtime.modalities.mri.fourier import Complex, centre_slice, to_image, to_kspace
from edge_runtime.scan import SliceKey


def fully_sampled_slices(path: Path) -> list[Complex]:
    """The k-space ``(coils, phase_encodes, samples)`` of every slice of a recording, readout oversampling removed, in the order of
    their counters; read as `edge-runtime replay` reads it.

    Raises:
        RecordingError: it can't be read, or measured a line of a slice twice or not at all.
    """
    recording = open_recording(path)
    columns, lines, _ = recording.header.encoding.encoded.matrix
    coils = recording.header.scanner.receiver_coils or 1
    slices: dict[SliceKey, Complex] = {}
    measured: dict[SliceKey, np.ndarray[tuple[int], np.dtype[np.intp]]] = {}
    for batch in recording.readouts():
        image = batch[is_image(batch.header)]
        keys = slice_keys(image.header)
        for key in dict.fromkeys(keys):
            of_slice = image[np.array([one == key for one in keys])]
            kspace = slices.setdefault(key, np.zeros((coils, lines, columns), np.complex64))
            kspace[:, of_slice.header["phase_encode"]] = of_slice.samples.transpose(1, 0, 2)
            np.add.at(measured.setdefault(key, np.zeros(lines, np.intp)), of_slice.header["phase_encode"], 1)
    for key, times in measured.items():
        if not np.all(times == 1):
            raise RecordingError(
                f"{path}: {np.sum(times != 1)} of {lines} phase encodes of slice {key.slice} are not measured once; "
                "only a fully sampled scan can be compared with"
            )
    if not slices:
        raise RecordingError(f"{path}: no image lines")
    kept = recording.header.encoding.recon.matrix[0]
    return [crop_readout(slices[key], kept) for key in sorted(slices)]


def crop_readout(kspace: Complex, samples: int) -> Complex:
    """Keeps the central ``samples`` columns of the field of view: removes readout oversampling."""
    if kspace.shape[2] == samples:
        return kspace
    hybrid = to_image(kspace, axis=2)[:, :, centre_slice(kspace.shape[2], samples)]
    return np.asarray(to_kspace(hybrid, axis=2), dtype=np.complex64)
