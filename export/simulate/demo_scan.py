"""The demo's acquisition: two slices of a T1 volume as a small eight-coil scanner would measure them, noise scan included.

Nothing of it was seen in training: another brain (Colin27), another family of coils.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edge_runtime.links.files import write_mrd_stream
from edge_runtime.modalities.mri.fourier import centre_slice, to_image
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    Patient,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Scanner,
    Sequence,
)
from export.foreground import foreground
from export.simulate.receive import KSpace, complex_noise, gaussian_coils, measure

MATRIX = 192
OVERSAMPLED = 2 * MATRIX
FIELD_OF_VIEW_MM = 230.0
SLICE_THICKNESS_MM = 5.0
COILS = 8
ACCELERATION = 4
NOISE_READOUTS = 8
AXIAL_SLICES = (88, 104)
"""Indices of the slices along the volume's inferior-superior axis: through the ventricles, and above them."""

SIGNAL_TO_NOISE = 30.0
"""99th percentile of the fully sampled image over the noise of a complex sample."""

SEED = 27


def write_demo_scan(volume_path: Path, folder: Path) -> tuple[Path, Path]:
    """Simulates the scan and writes ``colin27.mrd`` and ``colin27_reference.npz``; returns both paths.

    The reference is the root-sum-of-squares image of the fully sampled acquisition, with its noise, and its foreground.
    """
    import nibabel
    from nibabel.spatialimages import SpatialImage

    volume = np.asarray(cast(SpatialImage, nibabel.load(volume_path)).dataobj, dtype=np.float32)
    rng = np.random.default_rng(SEED)
    mixing = np.eye(COILS) + 0.15 * complex_noise((COILS, COILS), rng)  # neighbouring coils share some of their noise
    mixing = (mixing * rng.uniform(0.7, 1.4, COILS)[:, None]).astype(np.complex64)
    keep = variable_density(MATRIX, ACCELERATION, ACS_FRACTION_BY_ACCELERATION[ACCELERATION], rng)
    slices = [_measure_slice(volume[:, :, index], rng) for index in AXIAL_SLICES]
    noise_level = 1.0 / SIGNAL_TO_NOISE
    noisy = [k + noise_level * np.einsum("ij,jyx->iyx", mixing, complex_noise(k.shape, rng)) for k in slices]
    noise = noise_level * np.einsum("ij,njx->nix", mixing, complex_noise((NOISE_READOUTS, COILS, OVERSAMPLED), rng))
    header = _header(int(keep.sum()))
    stream, reference = folder / "colin27.mrd", folder / "colin27_reference.npz"
    folder.mkdir(parents=True, exist_ok=True)
    write_mrd_stream(stream, header, _readouts(noisy, noise, keep))
    images = np.stack([_reference(k) for k in noisy])
    masks = np.stack([foreground(image) for image in images])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images.astype(np.float16), foregrounds=np.packbits(masks, axis=-1))
    reference.write_bytes(buffer.getvalue())
    return stream, reference


def _measure_slice(plane: npt.NDArray[np.float32], rng: np.random.Generator) -> KSpace:
    """Noise-free k-space ``(coils, phase_encodes, oversampled readout)``, 99th percentile of its image at 1.

    Rows run from anterior to posterior, columns from right to left, as in a radiological display.
    """
    upright = plane[::-1, ::-1].T / 255.0  # nibabel's (right, anterior) to (rows down, columns right)
    fine = 2 * MATRIX
    millimetres = FIELD_OF_VIEW_MM / fine
    offset = [size / 2 - fine / 2 * millimetres for size in upright.shape]
    magnitude = ndimage.affine_transform(upright, np.full(2, millimetres), offset, output_shape=(fine, fine), order=3)
    magnitude = np.maximum(magnitude, 0).astype(np.float32)
    wide = np.pad(magnitude, ((0, 0), (fine // 2, fine // 2)))  # the readout's field of view is twice the image's
    y = np.linspace(-1, 1, fine, dtype=np.float32)[:, None]
    x = np.linspace(-2, 2, 2 * fine, dtype=np.float32)[None, :]
    phase = 0.6 * y + 0.9 * x * x - 0.5 * y * y + 0.8 * ndimage.gaussian_filter(wide, 2.0)
    maps = gaussian_coils((fine, 2 * fine), COILS, rng)
    kspace = measure((wide * np.exp(1j * phase)).astype(np.complex64), maps, (MATRIX, OVERSAMPLED))
    return np.asarray(kspace / np.percentile(_reference(kspace), 99), dtype=np.complex64)


def _reference(kspace: KSpace) -> npt.NDArray[np.float32]:
    images = to_image(to_image(kspace, axis=2)[:, :, centre_slice(OVERSAMPLED, MATRIX)], axis=1)
    return np.asarray(np.sqrt(np.sum(np.abs(images) ** 2, axis=0)), dtype=np.float32)


def _header(lines: int) -> ScanHeader:
    step = Limit(0, MATRIX - 1, MATRIX // 2)
    encoding = MriEncoding(
        encoded=EncodingSpace((OVERSAMPLED, MATRIX, 1), (2 * FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM, SLICE_THICKNESS_MM)),
        recon=EncodingSpace((MATRIX, MATRIX, 1), (FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM, SLICE_THICKNESS_MM)),
        trajectory="cartesian",
        limits={"kspace_encoding_step_1": step, "slice": Limit(0, len(AXIAL_SLICES) - 1, 0)},
        acceleration=(ACCELERATION, 1),
    )
    return ScanHeader(
        encoding=encoding,
        scanner=Scanner(manufacturer="edge-export", model="simulator", field_strength_t=1.5, receiver_coils=COILS),
        patient=Patient(identifier="COLIN27", name="Colin27^Simulated"),
        sequence=Sequence(repetition_time_ms=(20.0,), echo_time_ms=(5.0,), flip_angle_deg=(20.0,), sequence_type="GRE"),
        measurement_id="colin27-demo",
        protocol_name="Simulated 2D brain, R = 4",
        series_description="Simulated 2D brain",
        body_part="BRAIN",
        patient_position="HFS",
        parameters={"edge_expected_lines": str(lines)},
        simulated=True,
    )


def _readouts(
    slices: list[KSpace], noise: npt.NDArray[np.complex64], keep: npt.NDArray[np.bool_]
) -> Iterator[ReadoutBatch]:
    """The noise scan, then every slice from the centre of k-space outwards."""
    header = _blank(len(noise), 0)
    header["flags"] = ReadoutFlag.IS_NOISE_MEASUREMENT
    yield ReadoutBatch(header, noise.astype(np.complex64))
    lines = np.flatnonzero(keep)
    lines = lines[np.argsort(np.abs(lines - MATRIX // 2), kind="stable")]
    sent = len(noise)
    spacing = (AXIAL_SLICES[1] - AXIAL_SLICES[0]) * 1.0
    for index, kspace in enumerate(slices):
        header = _blank(len(lines), sent)
        header["phase_encode"], header["slice"] = lines, index
        header["position"] = (0, 0, AXIAL_SLICES[0] - 72.0 + spacing * index)
        header["flags"][0] |= np.uint64(ReadoutFlag.FIRST_IN_SLICE)
        header["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_SLICE)
        if index == len(slices) - 1:
            header["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)
        sent += len(lines)
        yield ReadoutBatch(header, np.ascontiguousarray(kspace[:, lines].transpose(1, 0, 2)))


def _blank(count: int, sent: int) -> npt.NDArray[np.void]:
    header = np.zeros(count, READOUT_DTYPE)
    header["scan_counter"] = sent + np.arange(count)
    header["time_stamp"] = 8 * header["scan_counter"]  # 2.5 ms ticks at a repetition time of 20 ms
    header["centre_sample"] = OVERSAMPLED // 2
    header["sample_time_us"] = 10.0
    header["read_direction"] = (1, 0, 0)
    header["phase_direction"] = (0, 1, 0)
    header["slice_direction"] = (0, 0, 1)
    return header
