"""The scans a model is judged on: simulated ones as it was trained for, simulated ones it was not, and recordings.

Every case is named by a small `CaseName`, from which it is made anew wherever it is needed: in this process, after an
interruption, or on another machine that has the same data. Simulated ones use other people, coils, phases and noise than training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import EdgeRuntimeError, NoImage
from edge_runtime.hil.quality import Magnitude, Mask
from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.fourier import Complex, to_image
from edge_runtime.modalities.mri.noise import NoiseLevel, estimate_noise
from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples, calibrate
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from export.digest import array_digest, file_digest
from export.foreground import foreground
from export.qualification.rings import PATCH, patches
from export.recordings import FullySampled, open_fully_sampled
from export.simulate.objects import ComplexObject, draw_anatomy, draw_phantom, random_field_phase
from export.simulate.pool import COIL_COUNTS, PHASE_ENCODES, SAMPLES
from export.simulate.receive import gaussian_coils, measure
from export.simulate.volumes import Volume
from export.whitening import NOISE_LEVELS, whitened

AS_TRAINED, RECORDED = "as trained for", "recorded"
OTHER_CONTRAST, OTHER_ANATOMY, MANY_COILS = "inverted contrast", "other anatomy", "32 coils"
NOISY, NOISELESS, FAST = "three times the noise", "a tenth of the noise", "R = 10"

HOME = (AS_TRAINED, RECORDED)
"""Groups of what a model is for."""

OFF_DISTRIBUTION = (OTHER_CONTRAST, OTHER_ANATOMY, MANY_COILS, NOISY, NOISELESS, FAST)
"""Groups that a model was not trained for, in the order of the report."""

OFF_ACCELERATION = 4
FAST_ACCELERATION, FAST_ACS_FRACTION = 10, 0.04
HOUNSFIELD_OF_AIR, HOUNSFIELD_OF_BONE = -1000, 1500

LEAST_SIGNAL = 3.0
"""Median signal of a recorded slice's foreground, in standard deviations of a complex sample's noise: less is a slice beside the
object. Noise alone, which has a brightest part too, reaches 1."""

SLICES_AT_ONCE = 8
"""Slices that are kept of a recording: as many are read in one pass over its file."""


class UnusableSources(EdgeRuntimeError):
    """Volumes or recordings that a report can't be made on."""


class NotJudged(Exception):
    """A case that there is no use in judging; says why."""


@dataclass(frozen=True, order=True)
class CaseName:
    """Which case: it is made of these and the data alone.

    Attributes:
        group: one of the groups above.
        source: recording, by its file's name; empty for simulated scans.
        index: of the slice of a recording, else of the draw.
        acceleration: nominal.
        seed: of draw and mask.
    """

    group: str
    source: str
    index: int
    acceleration: int
    seed: int

    def __str__(self) -> str:
        what = f"{self.source} slice {self.index}" if self.source else f"{self.group}, draw {self.index}"
        return f"{what}, R = {self.acceleration}"


@dataclass(frozen=True)
class Case:
    """One undersampled scan and what it should look like.

    Attributes:
        samples, calibration: what the device would have of it.
        full: the same scan with every line, ``(coils, phase_encodes, columns)``, in hybrid space.
        reference: its root-sum-of-squares image, ``(phase_encodes, columns)``.
        where: the reference's foreground.
    """

    name: CaseName
    samples: SliceSamples
    calibration: Calibration
    full: Complex
    reference: Magnitude
    where: Mask


class Sources:
    """The data that cases are made from. Volumes are in memory; recordings are read a few slices at a time.

    Args:
        volumes: of unseen people.
        foreign: volumes of another kind (`foreign_volumes`); where there are none, drawn phantoms stand for other anatomy.
        recordings: files of fully sampled, measured scans.

    Raises:
        UnusableSources: two volumes or two recordings have one name, by which a report tells them apart.
    """

    def __init__(self, volumes: Sequence[Volume], foreign: Sequence[Volume], recordings: Sequence[Path]) -> None:
        self.volumes, self.foreign = list(volumes), list(foreign)
        for what, names in (
            ("volumes", [volume.name for volume in volumes]),
            ("recordings", [path.name for path in recordings]),
        ):
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise UnusableSources(f"{twice[0]}: several {what} have this name; give each its own")
        self.recordings: Mapping[str, Path] = {path.name: path for path in recordings}
        self._opened: dict[str, FullySampled] = {}
        self._read: tuple[str, range, list[Complex]] = ("", range(0), [])

    def names(self, draws: int, off_draws: int, seed: int) -> Iterator[CaseName]:
        """Every case there is: ``draws`` slices as trained for and every recorded slice at each acceleration, ``off_draws`` of
        every other group.

        Raises:
            UnusableSources, RecordingError: a recording is simulated, or can't be compared with.
        """
        for index in range(draws):
            for acceleration in ACS_FRACTION_BY_ACCELERATION:
                yield CaseName(AS_TRAINED, "", index, acceleration, seed)
        for source in self.recordings:
            for index in range(len(self._recording(source).keys)):
                for acceleration in ACS_FRACTION_BY_ACCELERATION:
                    yield CaseName(RECORDED, source, index, acceleration, seed)
        for group in OFF_DISTRIBUTION:
            for index in range(off_draws):
                acceleration = FAST_ACCELERATION if group == FAST else OFF_ACCELERATION
                yield CaseName(group, "", index, acceleration, seed)

    def volume_digests(self) -> dict[str, str]:
        """SHA-256 of the volumes of unseen people, by name."""
        return {volume.name: array_digest(volume.voxels) for volume in self.volumes}

    def identity(self) -> str:
        """SHA-256 of all that cases are made of: contents, what they are used for, and how they are sliced."""
        digest = hashlib.sha256()

        def add(*values: object) -> None:
            digest.update(json.dumps(values).encode() + b"\n")

        for role, volumes in (("unseen", self.volumes), ("foreign", self.foreign)):
            for one in volumes:
                add(role, one.name, array_digest(one.voxels), one.slice_axes, one.pixel_aspect)
        for name, path in self.recordings.items():
            add("recorded", name, file_digest(path))
        return digest.hexdigest()

    def case(self, name: CaseName, plans: Plans) -> Case:
        """The case.

        Raises:
            NotJudged: the mask leaves nothing to calibrate on, or the slice shows no object, or too little of one.
            KeyError: a recording that is not among the sources.
        """
        rng = np.random.default_rng([name.seed, name.index])
        noise = None
        if name.group == RECORDED:
            kspace = self._recorded(name.source, name.index)
        else:
            kspace, noise = self._simulated(name.group, rng), NoiseLevel(1.0, "noise scan")
        full = to_image(kspace, axis=2)
        images = to_image(full, axis=1)
        reference = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0))
        where = _object(reference)
        if name.group == RECORDED:
            _check_signal(reference, where, full)
        if next(patches(where), None) is None:
            raise NotJudged(f"no {PATCH} x {PATCH} pixels of it show enough of an object to compare structure in")
        acs = ACS_FRACTION_BY_ACCELERATION.get(name.acceleration, FAST_ACS_FRACTION)
        mask_rng = np.random.default_rng([name.seed, name.index, name.acceleration])
        measured = variable_density(kspace.shape[1], name.acceleration, acs, mask_rng)
        hybrid = full * measured[None, :, None]
        try:
            calibration = calibrate(hybrid, measured, plans)
        except NoImage as error:
            raise NotJudged(f"nothing to calibrate on: {error}") from error
        samples = SliceSamples(hybrid, measured, noise, (name.index, name.acceleration))
        return Case(name, samples, calibration, full, reference, where)

    def _recording(self, source: str) -> FullySampled:
        if source not in self._opened:
            opened = open_fully_sampled(self.recordings[source])
            if opened.recording.header.simulated:
                raise UnusableSources(
                    f"{opened.path}: its header says that it is simulated; --recording takes measured scans, and simulated "
                    "slices are drawn from the volumes anyway"
                )
            self._opened[source] = opened
        return self._opened[source]

    def _recorded(self, source: str, index: int) -> Complex:
        recording = self._recording(source)
        held, indices, kspaces = self._read
        if held != source or index not in indices:
            first = index - index % SLICES_AT_ONCE
            indices = range(first, min(first + SLICES_AT_ONCE, len(recording.keys)))
            self._read = ("", range(0), [])  # gone before the next are there
            kspaces = recording.kspaces(indices)
            self._read = (source, indices, kspaces)
        return kspaces[index - indices.start]

    def _simulated(self, group: str, rng: np.random.Generator) -> Complex:
        """White k-space ``(coils, phase_encodes, samples)`` with a noise of one."""
        matrix = int(rng.choice(PHASE_ENCODES)), int(rng.choice(SAMPLES))
        size = 2 * matrix[0], 2 * matrix[1]
        coils = 32 if group == MANY_COILS else int(rng.choice(COIL_COUNTS))
        kspace = measure(self._seen(group, size, rng), gaussian_coils(size, coils, rng), matrix)
        images = to_image(to_image(kspace, axis=2), axis=1)
        bright = np.percentile(np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0)), 99)
        factor = {NOISY: 3.0, NOISELESS: 0.1}.get(group, 1.0)
        low, high = (factor * level for level in NOISE_LEVELS)
        return whitened(kspace / np.float32(bright), rng, (low, high))

    def _seen(self, group: str, size: tuple[int, int], rng: np.random.Generator) -> ComplexObject:
        if group == OTHER_ANATOMY:
            if self.foreign:
                return draw_anatomy(self.foreign, size, rng, random_field_phase)
            return draw_phantom(size, rng, random_field_phase)
        if group != OTHER_CONTRAST:
            return draw_anatomy(self.volumes, size, rng, random_field_phase)
        drawn = draw_anatomy(self.volumes, size, rng, random_field_phase)
        magnitude = np.abs(drawn)
        inverted = np.where(magnitude > 0.05, np.clip(1.2 - magnitude, 0, None), 0)
        return np.asarray(inverted * np.exp(1j * np.angle(drawn)), dtype=np.complex64)


def _object(reference: Magnitude) -> Mask:
    try:
        return foreground(reference)
    except ValueError as error:
        raise NotJudged(str(error)) from error


def _check_signal(reference: Magnitude, where: Mask, full: Complex) -> None:
    """Raises `NotJudged` for a slice ``full``, ``(coils, phase_encodes, columns)`` in hybrid space, that holds noise alone."""
    noise = estimate_noise(full, np.ones(full.shape[1], np.bool_)).standard_deviation
    power = np.asarray(reference[where], np.float64) ** 2 - full.shape[0] * noise**2
    signal = float(np.sqrt(max(np.median(power), 0.0)))
    if not signal >= LEAST_SIGNAL * noise:
        raise NotJudged(
            f"it shows hardly more than noise: a signal of {signal / noise if noise else 0:.1f} times the noise, "
            f"{LEAST_SIGNAL:g} is the least"
        )


def foreign_volumes(folder: Path) -> list[Volume]:
    """Volumes in Hounsfield units (``ct/*.npz`` with ``vol``) as if they were magnitudes: another anatomy and another contrast."""
    found = []
    for path in sorted(folder.glob("ct/*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            voxels = np.asarray(archive["vol"], np.float32)
        scaled = np.clip((voxels - HOUNSFIELD_OF_AIR) / (HOUNSFIELD_OF_BONE - HOUNSFIELD_OF_AIR), 0, 1.5)
        found.append(Volume(path.stem, np.asarray(scaled, np.float32), (0,), (1.0, 1.0, 1.0)))
    return found
