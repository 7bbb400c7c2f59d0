"""Readouts become slices while they arrive: whitening, readout transform, crop, and a place in hybrid space.

One `Assembler` serves one scan and is used by its ingest thread alone, but for `Assembler.reuse`. What it hands out
(`SliceSamples`, `CalibrationSamples`) is a copy, or a slice's own memory of which it keeps nothing.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BudgetExceeded, DeviceError, ReadoutError, UnsupportedScan
from edge_runtime.kernels import PLACEMENT, IngestPlan, LineBook, Lines, Placed, Stop, Where, Workers, survey
from edge_runtime.modalities.mri.buffers import AcsState, CalibrationSamples, SeparateAcs, SliceBuffer
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.layout import COMPLEX_BYTES, WORKING_COPIES, Layout
from edge_runtime.modalities.mri.noise import NoiseLevel, NoiseModel, noise_model
from edge_runtime.modalities.mri.numbering import Numbering
from edge_runtime.modalities.mri.reconstruct import MOST_ACS_LINES, SliceSamples, calibration_lines
from edge_runtime.scan import (
    BESIDE_THE_IMAGE,
    COMPRESSED,
    NOT_AN_IMAGE_LINE,
    SLICE_COUNTERS,
    Geometry,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    SliceKey,
)

ENDS = (ReadoutFlag.LAST_IN_MEASUREMENT, ReadoutFlag.LAST_IN_REPETITION, ReadoutFlag.LAST_IN_SLICE)
"""What ends slices: all, those of the repetition, and the readout's own. The first that is set counts."""

END_OF_SLICES = functools.reduce(ReadoutFlag.__or__, ENDS)
TOLERANCES = {"position": 1e-2, "read_direction": 1e-3, "phase_direction": 1e-3, "slice_direction": 1e-3}
"""The differences in where a readout's image lies (millimetres; of unit vectors) from which on readouts disagree."""

LAST_LINE = "the last of its phase encodes"
LATE = "a place in an image that was made without them"

MOST_NOTES = 32

MOST_ENDED = 1 << 14
"""Ended slices that are remembered, the latest; a scan may go on for ever, a readout that comes late comes soon."""

COPIES_OF_A_WAITING_SLICE = 2
"""Its samples and, at most as many, those to calibrate from."""


UNUSUAL = int(NOT_AN_IMAGE_LINE)
KNOWN_FLAGS = int(functools.reduce(ReadoutFlag.__or__, ReadoutFlag))

UNFAULTED = (Stop.END, Stop.OTHER, Stop.SLICE_ENDS)
"""Why lines end that nothing is wrong with."""


class _Transform(NamedTuple):
    """How readouts are transformed, see `IngestPlan.place`."""

    used: tuple[int, int]
    first_sample: int
    whitening: Complex | None


class Assembler:
    """Sorts the readouts of one scan into slices.

    Args:
        header: the scan.
        layout: its arrays.
        budget_bytes: memory that all its slices together may take, reconstruction included.
        device: that samples are transformed on, and kept on until their image is made.
        working_copies: arrays of a slice's size that exist at once while it is reconstructed.
    """

    def __init__(
        self,
        header: ScanHeader,
        layout: Layout,
        budget_bytes: int,
        device: Where = "cpu",
        working_copies: int = WORKING_COPIES,
    ) -> None:
        self.layout = layout
        self._device: Where = device
        self.left_out: Counter[str] = Counter()
        self.notes: list[str] = list(layout.notes)
        self._header = header
        self._budget_bytes = budget_bytes
        self._working_copies = working_copies
        self._open: dict[SliceKey, SliceBuffer] = {}
        self._ended: dict[SliceKey, str] = {}
        self._came: dict[str, set[int]] = {name: set() for name in SLICE_COUNTERS}
        self._separate: dict[tuple[int, int, int], SeparateAcs] = {}
        centre = layout.lines // 2
        self._central = slice(max(0, centre - MOST_ACS_LINES // 2), min(layout.lines, centre + MOST_ACS_LINES // 2))
        self._noise_samples: list[Complex] = []
        self._noise_readouts = 0
        self._noise_time_us = 0.0
        self._noise: NoiseModel | None = None
        self._coils: int | None = None
        self._numbering = Numbering(layout)
        self._ingest: IngestPlan | None = None
        self._spare: Complex | None = None

    def add(self, batch: ReadoutBatch) -> Iterator[tuple[SliceKey, bool]]:
        """Takes readouts in; yields every slice that grew, and whether it is now complete.

        Raises:
            ScanRefused: a readout contradicts the header, or memory would not suffice; readouts before it are kept.
            DeviceError: the GPU failed; the slice whose readouts it was to transform is dropped, the others are kept.
        """
        found = survey(batch.header)
        if unknown := found.flags & ~KNOWN_FLAGS:
            bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
            self._note(f"flags: bits that the standard does not define were ignored: {bits}")
        if found.one_space and not found.flags & UNUSUAL:
            self._check_coils(batch)
            yield from self._add_image_lines(batch)
            return
        unsupported, name, mend = self._unsupported(batch.header)
        if unsupported.any():
            first = int(np.argmax(unsupported))
            if first:
                yield from self._sort(batch[:first])
            raise UnsupportedScan("flags", f"{name} (scan_counter {int(batch.header['scan_counter'][first])})", mend)
        yield from self._sort(batch)

    def _unsupported(self, header: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.bool_], str, str]:
        """Marks readouts of a kind that is not reconstructed, up to which a batch may be taken in; its name, and the mend."""
        flags = header["flags"]
        compressed = _has(flags, COMPRESSED)
        beside = _has(flags, functools.reduce(ReadoutFlag.__or__, BESIDE_THE_IMAGE, ReadoutFlag.IS_NOISE_MEASUREMENT))
        reversed_ = _has(flags, ReadoutFlag.IS_REVERSE) & ~beside & (header["encoding_space"] == 0)
        if reversed_.any() and not compressed[: int(np.argmax(reversed_)) + 1].any():
            mend = "reversed image lines are echo-planar imaging, which is not supported yet; send a scan without them"
            return reversed_, "IS_REVERSE", mend
        names = [str(flag.name) for flag in ReadoutFlag if flag & COMPRESSED and _has(flags, flag).any()]
        return compressed, " ".join(names), "send uncompressed complex samples"

    def _sort(self, batch: ReadoutBatch) -> Iterator[tuple[SliceKey, bool]]:
        """Tells noise, calibration and image readouts apart; takes them in the order in which they came."""
        flags = batch.header["flags"]
        noise = _has(flags, ReadoutFlag.IS_NOISE_MEASUREMENT)
        calibration_only = _has(flags, ReadoutFlag.IS_PARALLEL_CALIBRATION) & ~_has(
            flags, ReadoutFlag.IS_PARALLEL_CALIBRATION_AND_IMAGING
        )
        kinds = np.stack([noise, calibration_only, self._leave_out(batch.header, ~noise)], axis=1)
        for run in _runs(kinds):
            is_noise, is_calibration, is_left_out = kinds[run.start]
            if is_left_out:  # such as a navigator, which may have coils of its own
                yield from self._end_beside_the_image(batch.header[run])
                continue
            self._check_coils(batch[run])
            if is_noise:
                self._add_noise(batch[run])
            elif is_calibration:
                self._settle_noise()
                for key, part in _alike(batch[run]):
                    self._add_calibration(key, part)
                yield from self._end_beside_the_image(batch.header[run])
            else:
                yield from self._add_image_lines(batch[run])

    def _add_image_lines(self, batch: ReadoutBatch) -> Iterator[tuple[SliceKey, bool]]:
        yield from self._add_counted(self._numbering.repair(batch))

    def finish(self) -> Iterator[tuple[SliceKey, bool]]:
        """No more readouts come: settles what was still undecided; yields as `add` does."""
        yield from self._add_counted(self._numbering.flush())

    def _add_counted(self, batches: Iterator[ReadoutBatch]) -> Iterator[tuple[SliceKey, bool]]:
        for batch in batches:
            if self._numbering.missing:
                self._note("the readouts carry no counters; phase encodes were numbered in the order they arrived")
            yield from self._add_image(batch)

    def open_slices(self) -> list[SliceKey]:
        """Slices that hold samples and have not been released, in order."""
        return sorted(self._open)

    def lines_measured(self, key: SliceKey) -> int:
        return self._open[key].lines_measured

    def counts(self, key: SliceKey) -> npt.NDArray[np.int32]:
        """Averages that have come of each phase encode, ``(phase_encodes,)``, calibration lines not counted."""
        return self._open[key].counts

    def measured(self, key: SliceKey) -> npt.NDArray[np.bool_]:
        """Measured phase encodes ``(phase_encodes,)``, calibration lines not counted."""
        return self._open[key].measured

    def is_whole(self, key: SliceKey) -> bool:
        """Whether a slice has ended by the scanner's word, or lacks nothing."""
        buffer = self._open[key]
        return buffer.ended_by_flag or not self.lacking(key)

    def lacking(self, key: SliceKey) -> str:
        """What a slice lacks of what the header declares, in words; empty where it lacks nothing."""
        buffer, averages = self._open[key], self.layout.averages
        if missing := self.layout.missing(buffer.measured):
            return missing
        short = int(np.count_nonzero(buffer.counts[buffer.measured] < averages))
        if short:
            return f"{short} of {buffer.lines_measured} phase encodes were measured in fewer than {averages} averages"
        return ""

    def absent(self) -> tuple[str, ...]:
        """Counters of which fewer values came than the header declares, in words."""
        said = []
        for name, came in self._came.items():
            limit = self._header.encoding.limits.get(name)
            if limit is not None and came and len(came) < limit.maximum - limit.minimum + 1:
                said.append(f"of {limit.maximum - limit.minimum + 1} {name}s that the header declares {len(came)} came")
        return tuple(said)

    def acs(self, key: SliceKey) -> AcsState:
        """What a slice could be calibrated from now; only the central lines matter."""
        buffer = self._open[key]
        central = buffer.counts[self._central].tobytes()
        if buffer.calibration is not None:
            central += buffer.calibration.counts.tobytes()
        if central != buffer.central:
            counts, measured, _ = self._calibration_counts(buffer)
            lines = calibration_lines(measured)
            buffer.central = central
            buffer.acs = AcsState(lines.stop - lines.start, int(counts[lines].sum()))
        return buffer.acs

    def share(self, key: SliceKey) -> float:
        """How much of a slice is measured, see `Layout.share`."""
        buffer = self._open[key]
        return self.layout.share(buffer.counts, separate_acs=buffer.calibration is not None)

    def geometry(self, key: SliceKey) -> Geometry:
        return self._open[key].geometry

    def snapshot(self, key: SliceKey) -> SliceSamples:
        """A copy of what is measured of a slice, as an image needs it."""
        buffer = self._open[key]
        return self._averaged(key, buffer, None)

    def calibration_snapshot(self, key: SliceKey) -> CalibrationSamples:
        """A copy of what `calibrate` needs."""
        calibration = self._calibration_samples(key, self._open[key])
        return replace(calibration, acs=calibration.acs.copy())

    def take(self, key: SliceKey) -> tuple[SliceSamples, CalibrationSamples]:
        """Both of a slice whose image is on its way, without a copy where there need not be one. The slice is forgotten; later
        readouts for it are refused. `reuse` gives the memory back when the image is made."""
        buffer = self._close(key)
        calibration = self._calibration_samples(key, buffer)  # first: the sums are about to become averages
        return self._averaged(key, buffer, buffer.samples), calibration

    def reuse(self, samples: SliceSamples) -> None:
        """Fills the memory of `take` with another slice, which is faster than memory new to the process. From any thread; nobody
        may read the samples any more."""
        self._spare = samples.hybrid.transpose(1, 0, 2)

    def drop(self, key: SliceKey) -> None:
        """Forgets a slice of which there will be no image; later readouts for it are refused."""
        self._close(key)

    def _close(self, key: SliceKey) -> SliceBuffer:
        buffer = self._open.pop(key)
        self._ended[key] = buffer.ended_by
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        return buffer

    def _averaged(self, key: SliceKey, buffer: SliceBuffer, out: Complex | None) -> SliceSamples:
        """What an image needs, made of the buffer's sums in new memory, or where ``out`` is them in their place."""
        measured = buffer.measured
        samples = self._plan(buffer.samples.shape[1]).mean(buffer.samples, buffer.counts, out)
        noise = None
        if self._noise is not None:
            share = float(np.mean(1 / buffer.counts[measured])) if measured.any() else 1.0
            noise = NoiseLevel(float(np.sqrt(share)), "noise scan")
        seed = (key.slice, key.contrast, key.phase, key.repetition, key.set)
        return SliceSamples(samples.transpose(1, 0, 2), measured, noise, seed)

    def _calibration_samples(self, key: SliceKey, buffer: SliceBuffer) -> CalibrationSamples:
        """The image's own lines where there are any; may share the buffer's memory."""
        counts, measured, separate = self._calibration_counts(buffer)
        acs = calibration_lines(measured)
        lines = np.asarray(buffer.samples[acs])
        notes: tuple[str, ...] = ()
        if separate[acs].any():
            assert buffer.calibration is not None
            start = self._central.start
            other = buffer.calibration.samples[acs.start - start : acs.stop - start]
            lines = np.where(separate[acs, None, None], other, lines)
            if buffer.calibration.repetition != key.repetition:
                notes = (f"calibrated with the separate ACS of repetition {buffer.calibration.repetition}",)
        if (counts[acs] > 1).any():
            lines = lines / counts[acs].astype(np.float32)[:, None, None]
        return CalibrationSamples(lines, acs, measured, notes)

    def _calibration_counts(
        self, buffer: SliceBuffer
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Of all lines: averages summed, which are measured, and which of those only for calibration."""
        separate = np.zeros(self.layout.lines, np.bool_)
        if buffer.calibration is None:
            return buffer.counts, buffer.measured, separate
        counts = buffer.counts.copy()
        separate[self._central] = (counts[self._central] == 0) & (buffer.calibration.counts > 0)
        counts[separate] = buffer.calibration.counts[separate[self._central]]
        return counts, counts > 0, separate

    def slices_that_may_wait(self) -> int:
        """How many slices may wait for reconstruction, as copies, beside those in progress and the one that is reconstructed; at
        least one."""
        fitting = (self._budget_bytes - self._separate_bytes()) // self.layout.slice_bytes(self._coils or 1)
        return max(1, (fitting - self._working_copies - len(self._open)) // COPIES_OF_A_WAITING_SLICE)

    def _check_coils(self, batch: ReadoutBatch) -> None:
        if self._coils is None:
            self._coils = batch.coils
            self.layout.check_budget(batch.coils, self._budget_bytes, working_copies=self._working_copies)
            declared = self._header.scanner.receiver_coils
            if declared is not None and declared != batch.coils:
                self._note(f"the header says receiverChannels = {declared}, the readouts have {batch.coils} coils")
        elif batch.coils != self._coils:
            raise ReadoutError(
                "active_channels", batch.coils, f"this scan's readouts had {self._coils} coils until scan_counter "
                f"{int(batch.header['scan_counter'][0])}; the number can't change within a scan"
            )  # fmt: skip

    def _leave_out(self, header: npt.NDArray[np.void], candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Marks readouts that are not image lines, and counts them by the name of their flag."""
        flags = header["flags"]
        out: npt.NDArray[np.bool_] = candidates & (header["encoding_space"] != 0)
        if out.any():
            self.left_out["encoding_space_ref other than 0"] += int(out.sum())
        for flag in BESIDE_THE_IMAGE:
            found = candidates & _has(flags, flag) & ~out
            if found.any():
                self.left_out[str(flag.name)] += int(found.sum())
                out |= found
        return out

    def _add_noise(self, batch: ReadoutBatch) -> None:
        if self._open or self._ended or self._separate or self._numbering.undecided:
            raise ReadoutError(
                "flags",
                f"IS_NOISE_MEASUREMENT (scan_counter {int(batch.header['scan_counter'][0])})",
                "noise readouts must come before the first readout of an image or its calibration",
            )
        flat = batch.samples.transpose(1, 0, 2).reshape(batch.coils, -1)
        held = sum(part.shape[1] for part in self._noise_samples)
        if (held + flat.shape[1]) * batch.coils * 8 > self._budget_bytes // 4:
            raise BudgetExceeded(
                "noise samples", held + flat.shape[1], f"more than a quarter of {self._budget_bytes >> 20} MB"
            )
        self._noise_samples.append(flat.copy())
        self._noise_readouts += len(batch)
        self._noise_time_us = float(batch.header["sample_time_us"][0])

    def _settle_noise(self) -> None:
        if self._noise_samples and self._noise is None:
            try:
                self._noise = noise_model(np.concatenate(self._noise_samples, axis=1), self._noise_time_us)
            except ValueError as error:
                raise ReadoutError("noise readouts", self._noise_readouts, str(error)) from error
            self._noise_samples.clear()

    def _add_image(self, batch: ReadoutBatch) -> Iterator[tuple[SliceKey, bool]]:
        self._settle_noise()
        begin = 0
        while begin < len(batch):
            key = SliceKey.of(batch.header[begin])
            if key not in self._open:
                earlier = [
                    k
                    for k in self._open
                    if k.repetition < key.repetition and replace(k, repetition=key.repetition) == key
                ]
                yield from self._end(earlier, f"the beginning of repetition {key.repetition}")
            if self._came_too_late(key, batch.header[begin : begin + 1]):
                begin += 1
                continue
            completing = self._completing(key, batch.header[begin:])
            placed = self._place(key, batch[: begin + completing] if completing else batch, begin)
            begin += placed.count
            if placed.stop is Stop.SLICE_ENDS:  # whatever else comes for it is refused, once it has been taken
                yield from self._end_by_flag(key, batch.header[begin - 1])
            elif placed.count == completing and not self.lacking(key):
                yield from self._end([key], LAST_LINE)
            else:
                yield key, False

    def _completing(self, key: SliceKey, header: npt.NDArray[np.void]) -> int:
        """After how many readouts the slice has every line of every average, at which it ends without a flag; 0 where they do not
        suffice, and where the header does not say how many there must be. That there is one average is what headers say that
        nobody filled in, and is not believed."""
        layout = self.layout
        if not (layout.lines_are_known and (layout.lines_are_stated or layout.averages > 1)):
            return 0
        buffer = self._open.get(key)
        left = layout.expected_lines * layout.averages - (int(buffer.counts.sum()) if buffer else 0)
        if not 0 < left <= len(header):
            return 0
        highest = max(int(header["average"][:left].max()), buffer.highest_average if buffer else 0)
        return left if highest < layout.averages else 0  # more averages than declared: nobody knows how many

    def _came_too_late(self, key: SliceKey, header: npt.NDArray[np.void]) -> bool:
        """Whether readouts are of a slice that ended with its last line, not by the scanner's word: they are left out, and said."""
        if self._ended.get(key) != LAST_LINE:
            return False
        self.left_out[LATE] += len(header)
        step, average = int(header["phase_encode"][0]), int(header["average"][0])
        self._note(
            f"{key}: phase encode {step} of average {average} came after the last that the "
            f"header declares and was left out; let encodingLimits.average.maximum tell of every average"
        )
        return True

    def _ends(self, header: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        """Which readouts end slices: of a scan with averages those of the last one, or the last of all."""
        of_last_average = header["average"] + np.uint32(1) >= self.layout.averages
        flags = header["flags"]
        ends = _has(flags, ReadoutFlag.LAST_IN_MEASUREMENT) | (_has(flags, END_OF_SLICES) & of_last_average)
        return np.asarray(ends)

    def _end_beside_the_image(self, header: npt.NDArray[np.void]) -> Iterator[tuple[SliceKey, bool]]:
        """Ends slices whose last readout is no line of theirs. Slices of another encoding space are not this one's."""
        for readout in header[self._ends(header) & (header["encoding_space"] == 0)]:
            yield from self._end_by_flag(SliceKey.of(readout), readout)

    def _end_by_flag(self, key: SliceKey, header: np.void) -> Iterator[tuple[SliceKey, bool]]:
        """Ends every slice that a readout's flag says to be over."""
        flag = next(flag for flag in ENDS if int(header["flags"]) & flag)
        over = {
            ReadoutFlag.LAST_IN_MEASUREMENT: list(self._open),
            ReadoutFlag.LAST_IN_REPETITION: [other for other in self._open if other.repetition == key.repetition],
            ReadoutFlag.LAST_IN_SLICE: [other for other in self._open if other == key],
        }
        yield from self._end(over[flag], str(flag.name), by_flag=True)

    def _end(self, keys: list[SliceKey], by: str, *, by_flag: bool = False) -> Iterator[tuple[SliceKey, bool]]:
        for key in keys:
            buffer = self._open[key]
            if not buffer.ended_by:
                buffer.ended_by, buffer.ended_by_flag = by, by_flag
                yield key, True

    def _place(self, key: SliceKey, batch: ReadoutBatch, begin: int) -> Placed:
        """Transforms image lines from the readout ``begin`` on, as many as belong together, and adds them to their slice.

        Raises:
            ReadoutError: about the readout after the last of them.
            DeviceError: the GPU failed; the slice is dropped.
        """
        buffer = self._open.get(key)
        if buffer is None:
            buffer = self._open_slice(key, batch[begin:])
        how = self._transform_of(batch.header[begin], batch.samples.shape[2])
        try:
            placed = self._plan(batch.coils).place(
                batch.header,
                batch.samples,
                buffer.book,
                buffer.samples,
                begin=begin,
                used=how.used,
                first_sample=how.first_sample,
                whitening=how.whitening,
            )
        except DeviceError:  # lines are counted before they are transformed: in their place may be anything, of anybody
            buffer.ended_by = "a failure of the GPU"
            self.drop(key)
            self._note(f"{key}: no image, as the GPU failed while its lines were transformed")
            raise
        if placed.moved:
            for part, name in enumerate(PLACEMENT):
                if placed.moved >> part & 1:
                    self._note(
                        f"{name} changes within slice {key.slice}: its images are placed by the first line of each"
                    )
        if placed.count:
            buffer.highest_average = max(buffer.highest_average, placed.highest_average)
            for average in {placed.lowest_average, placed.highest_average}:
                self._check_declared({"average": average})
        if placed.stop not in UNFAULTED:
            raise self._fault(placed.stop, batch[begin + placed.count :])
        return placed

    def _fault(self, stop: Stop, rest: ReadoutBatch) -> ReadoutError:
        """What is wrong with the first of the readouts."""
        culprit = rest.header[0]
        scan_counter, phase_encode = int(culprit["scan_counter"]), int(culprit["phase_encode"])
        where = f"(scan_counter {scan_counter})"
        if stop is Stop.PARTITION:
            expected = f"lies outside the one partition of a 2D scan {where}"
            return ReadoutError("kspace_encode_step_2", int(culprit["partition"]), expected)
        if stop is Stop.PHASE_ENCODE:
            layout = self.layout
            expected = f"lies outside the {layout.lines} phase encodes around centre {layout.centre_step} {where}"
            return ReadoutError("kspace_encode_step_1", phase_encode, expected)
        if stop is Stop.NOT_FINITE:
            samples = rest.samples[0]
            coil, sample = np.argwhere(~np.isfinite(samples))[0].tolist()
            return ReadoutError.not_finite(samples[coil, sample], coil=coil, sample=sample, scan_counter=scan_counter)
        return ReadoutError(
            "kspace_encode_step_1",
            phase_encode,
            f"was measured before in the same slice and average {int(culprit['average'])} "
            f"(scan_counter {scan_counter}); give repeats their own average or repetition",
        )

    def _add_calibration(self, key: SliceKey, batch: ReadoutBatch) -> None:
        """Transforms calibration lines and keeps the central ones."""
        if self._came_too_late(key, batch.header):
            return
        self._check_not_ended(key, batch)
        lines, fault = self._lines(batch)
        central = (lines >= self._central.start) & (lines < self._central.stop)
        if central.any():
            acs = self._separate_acs(key)
            lines = lines[central] - self._central.start
            self._transform(batch[: len(central)][central], lines, acs.samples)
            np.add.at(acs.counts, lines, 1)
        if fault is not None:
            raise fault

    def _separate_acs(self, key: SliceKey) -> SeparateAcs:
        """Where the calibration lines of a slice are summed."""
        place = (key.slice, key.contrast, key.set)
        acs = self._separate.get(place)
        if acs is None or (acs.repetition, acs.phase) != (key.repetition, key.phase):
            size = self._central.stop - self._central.start
            shape = (size, self._coils or 1, self.layout.columns)
            self._check_room("separate calibrations", len(self._separate) + 1, math.prod(shape) * COMPLEX_BYTES)
            acs = SeparateAcs(key.repetition, key.phase, np.zeros(shape, np.complex64), np.zeros(size, np.int32))
            self._separate[place] = acs
            if key in self._open:
                self._open[key].calibration = acs
        return acs

    def _open_slice(self, key: SliceKey, part: ReadoutBatch) -> SliceBuffer:
        """Of which the readouts hold the first line."""
        self._check_not_ended(key, part)
        layout = self.layout
        self._check_room("slices in progress", len(self._open) + 1, layout.slice_bytes(part.coils))
        if self._spare is None:
            samples = self._plan(part.coils).empty(layout.lines)
        else:  # memory that is new to the process costs as much as the transform
            samples, self._spare = self._spare, None
        self._check_declared({name: getattr(key, name) for name in SLICE_COUNTERS})
        for name, came in self._came.items():
            came.add(getattr(key, name))
        first = part.header[0]
        geometry = _geometry(first, layout)
        if problem := geometry.axes()[2]:
            self._note(f"Geometry unknown because {problem}")
        book = LineBook(
            layout.lines,
            layout.centre_step - layout.lines // 2,
            final_flags=ReadoutFlag.LAST_IN_MEASUREMENT,
            end_flags=END_OF_SLICES,
            averages=layout.averages,
            placement=first,
            tolerances=TOLERANCES,
        )
        calibration = self._separate.get((key.slice, key.contrast, key.set))
        self._open[key] = SliceBuffer(samples, book, geometry, calibration)
        return self._open[key]

    def _check_declared(self, counters: Mapping[str, int]) -> None:
        """Notes counters beyond the header's limits, which many consoles do not fill in; what they do not limit may be anything."""
        for name, value in counters.items():
            limit = self._header.encoding.limits.get(name)
            if limit is not None and not limit.minimum <= value <= limit.maximum:
                self._note(
                    f"the header declares {name} {limit.minimum} to {limit.maximum}, readouts have others: taken as they came"
                )

    def _check_not_ended(self, key: SliceKey, part: ReadoutBatch) -> None:
        if key not in self._ended:
            return
        average = max(int(readout["average"]) for readout in part.header if SliceKey.of(readout) == key)
        if average >= self.layout.averages:
            raise ReadoutError(
                "average",
                average,
                f"comes after {self._ended[key]} had ended its slice, whose image was made without it; let the header declare "
                f"{average + 1} averages (encodingLimits.average.maximum = {average}), or set the flag in the last average only",
            )
        raise ReadoutError(
            "idx",
            key,
            f"readout {int(part.header['scan_counter'][0])} belongs to a slice that {self._ended[key]} had ended",
        )

    def _check_room(self, what: str, count: int, more_bytes: int) -> None:
        """Refuses what would not leave enough memory to reconstruct a slice."""
        held = (
            self.layout.slice_bytes(self._coils or 1) * (len(self._open) + self._working_copies)
            + self._separate_bytes()
        )
        needed = held + more_bytes
        if needed > self._budget_bytes:
            raise BudgetExceeded(
                what, count,
                f"needs {needed >> 20} MB with reconstruction, the profile grants {self._budget_bytes >> 20} MB for samples; "
                "end slices with LAST_IN_SLICE, or raise memory.session_mb",
            )  # fmt: skip

    def _separate_bytes(self) -> int:
        """Of the separate ACS that are kept; an open slice may hold one that a later has replaced."""
        kept = [*self._separate.values(), *(buffer.calibration for buffer in self._open.values() if buffer.calibration)]
        return sum({id(acs): acs.samples.nbytes for acs in kept}.values())

    def _lines(self, part: ReadoutBatch) -> tuple[Lines, ReadoutError | None]:
        """Array indices of the leading readouts that lie in the matrix, and what is wrong with the next one."""
        header, layout = part.header, self.layout
        lines = layout.line_of(header["phase_encode"].astype(np.int64))
        outside = (lines < 0) | (lines >= layout.lines) | (header["partition"] != 0)
        if not outside.any():
            return lines, None
        first = int(np.argmax(outside))
        stop = Stop.PARTITION if header["partition"][first] else Stop.PHASE_ENCODE
        return lines[:first], self._fault(stop, part[first:])

    def _transform(self, part: ReadoutBatch, lines: Lines, out: Complex) -> None:
        """Adds whitened lines to ``out`` ``(lines, coils, columns)``; the readouts are of one kind, see `_alike`."""
        if not len(part):
            return
        how = self._transform_of(part.header[0], part.samples.shape[2])
        start, stop = how.used
        self._plan(part.coils).execute(
            part.samples[:, :, start:stop],
            lines,
            out,
            first_sample=how.first_sample,
            whitening=how.whitening,
            add=True,
        )

    def _plan(self, coils: int) -> IngestPlan:
        if self._ingest is None:
            layout = self.layout
            self._ingest = IngestPlan(Workers(threads=1), coils, layout.samples, layout.columns, device=self._device)
        return self._ingest

    def _transform_of(self, header: np.void, samples: int) -> _Transform:
        """How readouts of so many samples are transformed."""
        start, stop = int(header["discard_pre"]), samples - int(header["discard_post"])
        count, length = stop - start, self.layout.samples
        if count > length:
            raise ReadoutError(
                "number_of_samples", count, f"is more than encodedSpace.matrixSize.x = {length} declares"
            )
        whitening = self._noise.whitening_for(float(header["sample_time_us"])) if self._noise is not None else None
        return _Transform((start, stop), self._offset(count, int(header["centre_sample"]) - start), whitening)

    def _offset(self, count: int, centre: int) -> int:
        """Where the first of ``count`` samples belongs in the readout, so that the echo's centre comes to its centre."""
        length = self.layout.samples
        if count == length:
            return 0
        offset = length // 2 - centre
        if not 0 <= centre < count or not 0 <= offset <= length - count:
            self._note(
                f"centre_sample {centre} does not fit {count} samples in a matrix of {length}; the middle is assumed"
            )
            offset = length // 2 - count // 2
        return offset

    def _note(self, note: str) -> None:
        """Notes come with every image; what they say is up to the scanner, so their number is bounded."""
        if note not in self.notes and len(self.notes) < MOST_NOTES:
            self.notes.append(note)


def _has(flags: npt.NDArray[np.uint64], wanted: ReadoutFlag) -> npt.NDArray[np.bool_]:
    return np.asarray((flags & np.uint64(wanted)) != 0)


def _alike(batch: ReadoutBatch) -> Iterator[tuple[SliceKey, ReadoutBatch]]:
    """Parts of a batch that belong to one image and are transformed alike, in their order; mostly the whole batch."""
    fields = (*SLICE_COUNTERS, "centre_sample", "discard_pre", "discard_post")
    rows = np.empty((len(batch), len(fields)), np.uint16)
    for column, name in enumerate(fields):
        rows[:, column] = batch.header[name]
    for run in _runs(rows):
        yield SliceKey(*rows[run.start, : len(SLICE_COUNTERS)].tolist()), batch[run]


def _runs(rows: npt.NDArray[np.generic]) -> Iterator[slice]:
    """Where consecutive rows are equal, in order."""
    changes = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    start = 0
    for stop in [*changes.tolist(), len(rows)]:
        if stop > start:
            yield slice(start, stop)
        start = stop


def _geometry(header: np.void, layout: Layout) -> Geometry:
    def direction(name: str) -> tuple[float, float, float] | None:
        x, y, z = (float(value) for value in header[name])
        return (x, y, z) if x or y or z else None

    x, y, z = (float(value) for value in header["position"])
    return Geometry(
        centre_mm=(x, y, z),
        read_direction=direction("read_direction"),
        phase_direction=direction("phase_direction"),
        slice_direction=direction("slice_direction"),
        field_of_view_mm=layout.field_of_view_mm,
    )
