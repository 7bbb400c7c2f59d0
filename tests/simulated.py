"""Small simulated scans: a smooth object seen by smooth coils, as k-space, readouts and bytes on the wire.

Everything is exact: with ``noise=0`` the k-space is the transform of the object times the coil maps and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.links.mrd_header import format_header
from edge_runtime.links.mrd_pack import pack_close, pack_config_file, pack_header, pack_readouts
from edge_runtime.modalities.mri.fourier import Complex, to_kspace
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Scanner,
)

LINES, COLUMNS, SAMPLES, COILS = 32, 24, 48, 4
"""The usual matrix of the tests: two-fold readout oversampling, and no two axes of one size."""

FIELD_OF_VIEW_MM = (240.0, 320.0, 5.0)


def complex_noise(shape: Sequence[int], rng: np.random.Generator) -> Complex:
    """Complex Gaussian noise of unit variance."""
    return ((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * np.sqrt(0.5)).astype(np.complex64)


def object_image(lines: int = LINES, columns: int = COLUMNS) -> Complex:
    """Two soft ellipses with a smooth phase, ``(lines, columns)``, dark at the rim."""
    y, x = np.meshgrid(np.linspace(-1, 1, lines), np.linspace(-1, 1, columns), indexing="ij")
    head = 1 / (1 + np.exp(30 * (np.hypot(y / 0.8, x / 0.7) - 0.9)))
    hole = 1 / (1 + np.exp(30 * (np.hypot((y - 0.2) / 0.5, (x + 0.1) / 0.4) - 0.5)))
    return np.asarray((head - 0.6 * hole) * np.exp(0.5j * (y + x * x)), dtype=np.complex64)


def coil_maps(coils: int = COILS, lines: int = LINES, columns: int = COLUMNS) -> Complex:
    """Smooth maps ``(coils, lines, columns)`` with unit root-sum-of-squares."""
    y, x = np.meshgrid(np.linspace(-1, 1, lines), np.linspace(-1, 1, columns), indexing="ij")
    maps = []
    for coil in range(coils):
        angle = 2 * np.pi * coil / coils
        distance = (y - 1.2 * np.sin(angle)) ** 2 + (x - 1.2 * np.cos(angle)) ** 2
        maps.append(np.exp(-distance / 2 + 1j * (angle + 0.4 * y * np.cos(angle) - 0.3 * x * np.sin(angle))))
    stacked = np.stack(maps)
    return np.asarray(stacked / np.sqrt(np.sum(np.abs(stacked) ** 2, axis=0)), dtype=np.complex64)


def kspace_of(
    image: Complex, maps: Complex, samples: int | None = None, *, noise: float = 0.0, seed: int = 0
) -> Complex:
    """Fully sampled k-space ``(coils, lines, samples)``; more samples than columns are readout oversampling."""
    coil_images = maps * image
    if samples is not None and samples != image.shape[1]:
        wide = np.zeros((*coil_images.shape[:2], samples), np.complex64)
        start = samples // 2 - image.shape[1] // 2
        wide[:, :, start : start + image.shape[1]] = coil_images
        coil_images = wide
    kspace = to_kspace(to_kspace(coil_images, axis=1), axis=2)
    return kspace + np.float32(noise) * complex_noise(kspace.shape, np.random.default_rng(seed))


def header_of(
    lines: int = LINES,
    columns: int = COLUMNS,
    samples: int = SAMPLES,
    *,
    steps: Limit | None = None,
    limits: Mapping[str, Limit] | None = None,
    acceleration: int = 1,
    coils: int | None = COILS,
    parameters: Mapping[str, str] | None = None,
) -> ScanHeader:
    """The header of a 2D Cartesian scan; samples beyond the columns are oversampling."""
    read, phase, thickness = FIELD_OF_VIEW_MM
    encoding = MriEncoding(
        encoded=EncodingSpace((samples, lines, 1), (read * samples / columns, phase, thickness)),
        recon=EncodingSpace((columns, lines, 1), (read, phase, thickness)),
        trajectory="cartesian",
        limits={"kspace_encoding_step_1": steps or Limit(0, lines - 1, lines // 2), **(limits or {})},
        acceleration=(acceleration, 1),
    )
    return ScanHeader(encoding, scanner=Scanner(receiver_coils=coils), parameters=parameters or {})


def with_spaces(
    header: ScanHeader, *, encoded: EncodingSpace | None = None, recon: EncodingSpace | None = None
) -> ScanHeader:
    """The header with another encoded or reconstructed space."""
    encoding = header.encoding
    return replace(
        header, encoding=replace(encoding, encoded=encoded or encoding.encoded, recon=recon or encoding.recon)
    )


def readouts_of(
    kspace: Complex, steps: npt.ArrayLike | None = None, *, last: bool = True, flags: int = 0, **fields: int
) -> ReadoutBatch:
    """Readouts of one slice.

    Args:
        kspace: ``(coils, lines, samples)``.
        steps: phase encodes in the order in which they are measured; all of them by default.
        last: the last one is flagged LAST_IN_SLICE.
        flags: of every readout.
        fields: other header fields and counters.
    """
    order = np.arange(kspace.shape[1]) if steps is None else np.asarray(steps)
    header = np.zeros(len(order), READOUT_DTYPE)
    header["phase_encode"] = order
    header["scan_counter"] = np.arange(len(order))
    header["centre_sample"] = kspace.shape[2] // 2
    header["sample_time_us"] = 10.0
    header["read_direction"], header["phase_direction"], header["slice_direction"] = np.eye(3)
    header["flags"] = flags
    if last and len(order):
        header["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_SLICE)
    for name, value in fields.items():
        header[name] = value
    return ReadoutBatch(header, np.ascontiguousarray(kspace[:, order].transpose(1, 0, 2)))


def centre_out(lines: int = LINES) -> npt.NDArray[np.intp]:
    """Phase encodes from the centre of k-space outwards."""
    return np.argsort(np.abs(np.arange(lines) - lines // 2), kind="stable")


def scan_bytes(
    *batches: ReadoutBatch, header: ScanHeader | None = None, configuration: str = "edge-classical", close: bool = True
) -> bytes:
    """A whole scan as a client sends it."""
    messages = [opening(header, configuration), *map(pack_readouts, batches)]
    return b"".join([*messages, pack_close()] if close else messages)


def opening(header: ScanHeader | None = None, configuration: str = "edge-classical") -> bytes:
    """Configuration and header of a scan."""
    return pack_config_file(configuration) + pack_header(format_header(header or header_of()))


def usual_kspace(noise: float = 0.01) -> Complex:
    """k-space ``(COILS, LINES, SAMPLES)`` of the usual object."""
    return kspace_of(object_image(), coil_maps(), SAMPLES, noise=noise)
