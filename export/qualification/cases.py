"""The scans a model is judged on: simulated ones as it was trained for, simulated ones it was not, and recordings.

Every case is named by a small `CaseName`, from which it is made anew wherever it is needed: in this process, after an
interruption, or on another machine that has the same data. Simulated ones use other people, coils, phases and noise than training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import NoImage
from edge_runtime.hil.quality import Magnitude, Mask
from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.fourier import Complex, to_image
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples, calibrate
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from export.foreground import foreground
from export.recordings import fully_sampled_slices
from export.simulate.objects import ComplexObject, draw_anatomy, draw_phantom, random_field_phase
from export.simulate.pool import COIL_COUNTS, PHASE_ENCODES, SAMPLES
from export.simulate.receive import gaussian_coils, measure
from export.simulate.volumes import Volume
from export.whitening import NOISE_LEVELS, whitened

AS_TRAINED, RECORDED = "as trained for", "recorded"
OTHER_CONTRAST, OTHER_ANATOMY, MANY_COILS = "inverted contrast", "other anatomy", "32 coils"
NOISY, NOISELESS, FAST = "three times the noise", "a tenth of the noise", "R = 10"

OFF_DISTRIBUTION = (OTHER_CONTRAST, OTHER_ANATOMY, MANY_COILS, NOISY, NOISELESS, FAST)
"""Groups that a model was not trained for, in the order of the report."""

OFF_ACCELERATION = 4
FAST_ACCELERATION, FAST_ACS_FRACTION = 10, 0.04
HOUNSFIELD_OF_AIR, HOUNSFIELD_OF_BONE = -1000, 1500


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
    """The data that cases are made from, read once.

    Args:
        volumes: of unseen people.
        foreign: volumes of another kind (`foreign_volumes`); where there are none, drawn phantoms stand for other anatomy.
        recordings: files of fully sampled scans.
    """

    def __init__(self, volumes: Sequence[Volume], foreign: Sequence[Volume], recordings: Sequence[Path]) -> None:
        self.volumes, self.foreign = list(volumes), list(foreign)
        self.recordings: Mapping[str, Path] = {path.name: path for path in recordings}
        self._slices: dict[str, list[Complex]] = {}

    def names(self, draws: int, off_draws: int, seed: int) -> Iterator[CaseName]:
        """Every case there is: ``draws`` slices as trained for and every recorded slice at each acceleration, ``off_draws`` of
        every other group."""
        for index in range(draws):
            for acceleration in ACS_FRACTION_BY_ACCELERATION:
                yield CaseName(AS_TRAINED, "", index, acceleration, seed)
        for source in self.recordings:
            for index in range(len(self._recorded(source))):
                for acceleration in ACS_FRACTION_BY_ACCELERATION:
                    yield CaseName(RECORDED, source, index, acceleration, seed)
        for group in OFF_DISTRIBUTION:
            for index in range(off_draws):
                acceleration = FAST_ACCELERATION if group == FAST else OFF_ACCELERATION
                yield CaseName(group, "", index, acceleration, seed)

    def identity(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256()
        for volume in (*self.volumes, *self.foreign):
            digest.update(volume.voxels.tobytes())
        for name, path in self.recordings.items():
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def make(self, name: CaseName, plans: Plans) -> Case | None:
        """The case; ``None`` where the mask leaves nothing to calibrate on.

        Raises:
            KeyError: a recording that is not among the sources.
        """
        rng = np.random.default_rng([name.seed, name.index])
        noise = None
        if name.group == RECORDED:
            kspace = self._recorded(name.source)[name.index]
        else:
            kspace, noise = self._simulated(name.group, rng), NoiseLevel(1.0, "noise scan")
        full = to_image(kspace, axis=2)
        images = to_image(full, axis=1)
        reference = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0))
        acs = ACS_FRACTION_BY_ACCELERATION.get(name.acceleration, FAST_ACS_FRACTION)
        mask_rng = np.random.default_rng([name.seed, name.index, name.acceleration])
        measured = variable_density(kspace.shape[1], name.acceleration, acs, mask_rng)
        hybrid = full * measured[None, :, None]
        try:
            calibration = calibrate(hybrid, measured, plans)
        except NoImage:
            return None
        samples = SliceSamples(hybrid, measured, noise, (name.index, name.acceleration))
        return Case(name, samples, calibration, full, reference, foreground(reference))

    def _recorded(self, source: str) -> list[Complex]:
        if source not in self._slices:
            self._slices[source] = fully_sampled_slices(self.recordings[source])
        return self._slices[source]

    def _simulated(self, group: str, rng: np.random.Generator) -> Complex:
        """White k-space ``(coils, phase_encodes, samples)`` with a noise of one."""
        matrix = int(rng.choice(PHASE_ENCODES)), int(rng.choice(SAMPLES))
        size = 2 * matrix[0], 2 * matrix[1]
        coils = 32 if group == MANY_COILS else int(rng.choice(COIL_COUNTS))
        kspace = measure(self._object(group, size, rng), gaussian_coils(size, coils, rng), matrix)
        images = to_image(to_image(kspace, axis=2), axis=1)
        bright = np.percentile(np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0)), 99)
        factor = {NOISY: 3.0, NOISELESS: 0.1}.get(group, 1.0)
        low, high = (factor * level for level in NOISE_LEVELS)
        return whitened(kspace / np.float32(bright), rng, (low, high))

    def _object(self, group: str, size: tuple[int, int], rng: np.random.Generator) -> ComplexObject:
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


def foreign_volumes(folder: Path) -> list[Volume]:
    """Volumes in Hounsfield units (``ct/*.npz`` with ``vol``) as if they were magnitudes: another anatomy and another contrast."""
    found = []
    for path in sorted(folder.glob("ct/*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            voxels = np.asarray(archive["vol"], np.float32)
        scaled = np.clip((voxels - HOUNSFIELD_OF_AIR) / (HOUNSFIELD_OF_BONE - HOUNSFIELD_OF_AIR), 0, 1.5)
        found.append(Volume(path.stem, np.asarray(scaled, np.float32), (0,), (1.0, 1.0, 1.0)))
    return found
