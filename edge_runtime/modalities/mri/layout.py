"""How a header's geometry lays out the arrays: which counter is which line, what is cropped, and what it costs in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BudgetExceeded, HeaderError, UnsupportedScan
from edge_runtime.modalities.mri.fourier import Complex, centre_slice, to_image, to_kspace
from edge_runtime.modalities.mri.sampling import contiguous_centre
from edge_runtime.scan import Limit, ScanHeader

Steps = npt.NDArray[np.int64]

COMPLEX_BYTES = 8
WORKING_COPIES = 10
"""Arrays of a slice's size that exist at once while it is reconstructed: coil data, sensitivities, their conjugate, copies."""

RESAMPLING_COPIES = 5
"""Arrays of the reconstructed matrix's size that exist at once while an image is interpolated to it."""


@dataclass(frozen=True)
class Layout:
    """The arrays of one 2D Cartesian scan.

    Attributes:
        samples: length of the readout transform (the encoded matrix along the readout).
        columns: image columns kept after it, so that readout oversampling is gone.
        lines: phase encodes of the encoded matrix.
        first_step: the lowest phase-encode counter declared.
        steps: how many phase-encode counters are declared.
        centre_step: the phase-encode counter of the centre of k-space.
        rows: image rows kept of ``lines``, where the encoded field of view is wider than the image's.
        recon_matrix: columns and rows that the scanner asks for.
        field_of_view_mm: of the image, along readout, phase encode and slice.
        slices: slices declared.
        averages: averages declared.
        expected_lines: phase encodes that a complete slice has measured at least.
        acceleration: of the lines outside the ACS; 1 where the scan states how many lines a slice has.
        lines_are_stated: whether the scan itself says how many lines a slice has.
        embedded_lines: of the ACS among the image lines, as Siemens' converted headers tell; 0 where unknown.
        margin: phase encodes that a complete slice may leave out at either end of those declared.
        notes: what had to be assumed.
    """

    samples: int
    columns: int
    lines: int
    first_step: int
    steps: int
    centre_step: int
    rows: int
    recon_matrix: tuple[int, int]
    field_of_view_mm: tuple[float, float, float]
    slices: int
    averages: int
    expected_lines: int
    acceleration: int
    lines_are_stated: bool
    embedded_lines: int
    margin: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, header: ScanHeader) -> Layout:
        """Derives the layout.

        Raises:
            UnsupportedScan: not Cartesian, or 3D.
            HeaderError: the encoding contradicts itself.
        """
        encoding = header.encoding
        encoded, recon, limits = encoding.encoded, encoding.recon, encoding.limits
        if encoding.trajectory != "cartesian":
            raise UnsupportedScan("trajectory", encoding.trajectory, "this version reconstructs cartesian scans only")
        partitions = limits.get("kspace_encoding_step_2", Limit())
        if encoded.matrix[2] > 1 or partitions.maximum > 0:
            raise UnsupportedScan(
                "encodedSpace.matrixSize.z",
                encoded.matrix[2],
                "3D encoding is not supported; send 2D slices with z = 1",
            )
        notes: list[str] = []
        samples, lines = encoded.matrix[0], encoded.matrix[1]
        columns = _kept(samples, encoded.field_of_view_mm[0], recon.field_of_view_mm[0])
        rows = _kept(lines, encoded.field_of_view_mm[1], recon.field_of_view_mm[1])
        if columns == samples == 2 * recon.matrix[0] and 4 * recon.matrix[1] > 3 * rows:
            # A matrix that is about halved along both axes is an image of lower resolution, and nothing is cropped.
            columns = recon.matrix[0]
            notes.append(
                "the readout is twice the image's matrix at the same field of view; taken for oversampling and cropped"
            )
        steps = limits.get("kspace_encoding_step_1", Limit(0, lines - 1, lines // 2))
        if steps.maximum - steps.minimum >= lines:
            raise HeaderError(
                "kspace_encoding_step_1.maximum",
                steps.maximum,
                f"at most {steps.minimum + lines - 1}: encodedSpace.matrixSize.y = {lines} phase encodes from {steps.minimum} on",
            )
        if not 0 <= steps.minimum <= steps.centre <= steps.maximum and steps.centre != 0:
            raise HeaderError(
                "kspace_encoding_step_1.center", steps.centre, f"must lie within {steps.minimum} to {steps.maximum}"
            )
        centre = steps.centre
        if centre == 0 and steps.maximum > 0:
            centre = (steps.maximum + 1) // 2 if steps.maximum + 1 == lines else lines // 2
            notes.append(f"the header names phase encode 0 as the centre of k-space; {centre} is assumed")
        full = max(1, steps.maximum - steps.minimum + 1)
        if encoding.acceleration[0] > full:
            raise HeaderError(
                "accelerationFactor.kspace_encoding_step_1",
                encoding.acceleration[0],
                f"at most {full}: so many phase encodes are declared",
            )
        stated = _stated_lines(header, lines)
        acceleration = 1 if stated else max(1, encoding.acceleration[0])
        return cls(
            samples=samples,
            columns=columns,
            lines=lines,
            first_step=steps.minimum,
            steps=full,
            centre_step=centre,
            rows=rows,
            recon_matrix=(recon.matrix[0], recon.matrix[1]),
            field_of_view_mm=recon.field_of_view_mm,
            slices=limits.get("slice", Limit()).maximum + 1,
            averages=limits.get("average", Limit()).maximum + 1,
            # The acceleration alone does not tell how many lines the ACS adds, only how far apart the others are.
            expected_lines=stated or max(1, full // acceleration),
            acceleration=acceleration,
            lines_are_stated=stated is not None,
            embedded_lines=_embedded_lines(header, full),
            margin=full if stated else acceleration - 1,
            notes=tuple(notes),
        )

    def line_of(self, steps: Steps) -> Steps:
        """The array indices of phase-encode counters; the centre of k-space comes to ``lines // 2``."""
        return steps - self.centre_step + self.lines // 2

    @property
    def lines_are_known(self) -> bool:
        """Whether the header tells how many lines a slice has: those of an accelerated scan only where it states them."""
        return self.acceleration == 1

    def missing(self, measured: npt.NDArray[np.bool_]) -> str:
        """What a slice lacks, in words; empty where it holds all that was to be measured, as far as the header tells.

        Args:
            measured: ``(lines,)``.
        """
        steps = np.flatnonzero(measured) + self.centre_step - self.lines // 2
        if len(steps) < self.expected_lines:
            return f"{len(steps)} of {self.expected_lines} expected phase encodes were measured"
        first, last = self.first_step, self.first_step + self.steps - 1
        if steps[0] > first + self.margin or steps[-1] < last - self.margin:
            return f"phase encodes {steps[0]} to {steps[-1]} of {first} to {last} were reached"
        return ""

    def share(self, counts: npt.NDArray[np.int32], *, separate_acs: bool) -> float:
        """How much of a slice is measured, in all its averages. Of accelerated scans an estimate: the ACS counts with the lines
        that the header tells of it, or with those that have come, so that the share may go back.

        Args:
            counts: averages that have come of each line, ``(lines,)``.
            separate_acs: the ACS is not among the image lines.
        """
        centre = contiguous_centre(counts > 0)
        acs = max(0 if separate_acs else self.embedded_lines, centre.stop - centre.start)
        between = acs - -(-acs // self.acceleration)  # those that acceleration alone would leave out
        come = np.minimum(counts, self.averages).sum()
        return float(come / (min(self.steps, self.expected_lines + between) * self.averages))

    def slice_bytes(self, coils: int) -> int:
        """Memory of one slice's samples."""
        return coils * self.lines * self.columns * COMPLEX_BYTES

    def check_budget(
        self, coils: int, budget_bytes: int, network_bytes: int = 0, working_copies: int = WORKING_COPIES
    ) -> None:
        """Refuses a scan of which not even one slice can be reconstructed.

        Args:
            budget_bytes: for everything.
            network_bytes: what a network takes beside a slice's samples, where there will be learned images.
            working_copies: arrays of a slice's size that exist at once while it is reconstructed.

        Raises:
            BudgetExceeded: names the geometry and both sizes.
        """
        needed = self.slice_bytes(coils) * (1 + working_copies) + network_bytes
        if needed > budget_bytes:
            raise BudgetExceeded(
                "coils x phase encodes x columns",
                f"{coils} x {self.lines} x {self.columns}",
                f"one slice needs about {needed >> 20} MB, the profile grants {budget_bytes >> 20} MB for samples",
            )
        rows, columns = max(self.recon_matrix[1], self.rows), max(self.recon_matrix[0], self.columns)
        needed = rows * columns * COMPLEX_BYTES * RESAMPLING_COPIES
        if needed > budget_bytes:
            raise BudgetExceeded(
                "reconSpace.matrixSize",
                f"{self.recon_matrix[0]} x {self.recon_matrix[1]}",
                f"one image needs about {needed >> 20} MB, the profile grants {budget_bytes >> 20} MB for samples",
            )

    def to_recon_matrix(self, image: Complex) -> Complex:
        """Crops the field of view and interpolates an image ``(lines, columns)`` to ``(recon rows, recon columns)``.

        Interpolation is by zero-padding in k-space, which invents nothing.
        """
        image = image[centre_slice(self.lines, self.rows)]
        return _resample(_resample(image, self.recon_matrix[1], axis=0), self.recon_matrix[0], axis=1)


def _stated_lines(header: ScanHeader, lines: int) -> int | None:
    """The number of phase encodes that the scan's own parameter says a slice measures."""
    text = header.parameters.get("edge_expected_lines")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and 0 < int(text) <= lines):
        raise HeaderError("userParameters.edge_expected_lines", text, f"a whole number from 1 to {lines}")
    return int(text)


def _embedded_lines(header: ScanHeader, steps: int) -> int:
    """The size of an ACS among the image lines; only for an estimate, so that what makes no sense is not looked at."""
    text = header.parameters.get("EmbeddedRefLinesE1", "")
    return min(steps, int(text)) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _kept(size: int, encoded_mm: float, recon_mm: float) -> int:
    """Image points kept of ``size`` transformed ones: the share of the field of view that the image shows."""
    if encoded_mm > 0 and recon_mm > 0 and recon_mm < encoded_mm * (1 - 1e-3):
        return min(size, max(1, round(size * recon_mm / encoded_mm)))
    return size


def _resample(image: Complex, size: int, axis: int) -> Complex:
    length = image.shape[axis]
    if size == length:
        return image
    kspace = to_kspace(image, axis)
    if size < length:
        kspace = kspace.take(range(*centre_slice(length, size).indices(length)), axis=axis)
    else:
        shape = list(image.shape)
        shape[axis] = size
        padded = np.zeros(shape, np.complex64)
        index: list[slice] = [slice(None)] * image.ndim
        index[axis] = slice(size // 2 - length // 2, size // 2 - length // 2 + length)
        padded[tuple(index)] = kspace
        kspace = padded
    return np.asarray(to_image(kspace, axis) * np.float32(np.sqrt(size / length)), dtype=np.complex64)
