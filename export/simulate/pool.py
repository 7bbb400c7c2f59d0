"""A pool of noise-free simulated acquisitions on disk, from which training draws masks, noise and coil subsets.

The slow part (anatomy, coils, Fourier transform of the fine object) happens once here; the fast part (noise, undersampling,
calibration) is drawn anew at every training step.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.modalities.mri.coils import compression_matrix
from export.digest import made_by
from export.simulate.objects import draw_anatomy, draw_phantom, random_field_phase, tissue_phase
from export.simulate.pool_record import PoolRecord, begin_pool, read_record, volumes_digest
from export.simulate.receive import CoilMaps, KSpace, Ring, gaussian_coils, loop_coils, measure
from export.simulate.volume_coils import volume_coils
from export.simulate.volumes import Volume

COMPUTE = ("numpy", "scipy")
"""Libraries whose version may change an acquisition."""

COIL_COUNTS = (1, 2, 2, 3, 4, 4, 6, 8, 8, 12)
COILS_AFTER_COMPRESSION = 8


def _transformed_quickly(least: int, most: int) -> list[int]:
    """Even sizes without a prime factor above 7: training spends its time in the network then, not in transforms."""

    def is_smooth(size: int) -> bool:
        for prime in (2, 3, 5, 7):
            while size % prime == 0:
                size //= prime
        return size == 1

    return [size for size in range(least, most + 1, 2) if is_smooth(size)]


PHASE_ENCODES, SAMPLES = _transformed_quickly(96, 224), _transformed_quickly(96, 192)

MOST_OF_A_CAGE, FEWEST_OF_AN_ARRAY = 4, 6
CLOSE_RING = Ring(distance=(0.9, 1.2), radius=(0.25, 0.6))
"""Small loops near the head, as the measured 16-channel array seems to have (docs/simulate.md)."""


def draw_matrix(rng: np.random.Generator) -> tuple[int, int]:
    """Phase encodes and samples of an acquisition, drawn before anything else of it."""
    return int(rng.choice(PHASE_ENCODES)), int(rng.choice(SAMPLES))


def simulate_acquisition(
    volumes: list[Volume],
    rng: np.random.Generator,
    *,
    phantom_share: float,
    validation: bool = False,
) -> KSpace:
    """One fully sampled, noise-free multi-coil k-space ``(coils, phase_encodes, samples)``, compressed to at most eight coils.

    ``validation`` draws coils and phase from generators that training never uses. Magnitudes are scaled so that the
    root-sum-of-squares image has its 99th percentile at 1.
    """
    matrix = draw_matrix(rng)
    finer = rng.uniform(1.5, 2.2)
    size = (_even(matrix[0] * finer), _even(matrix[1] * finer))
    phase = random_field_phase if validation else tissue_phase
    complex_object = (
        draw_phantom(size, rng, phase) if rng.random() < phantom_share else draw_anatomy(volumes, size, rng, phase)
    )
    coils = int(rng.choice(COIL_COUNTS))
    maps = gaussian_coils(size, coils, rng) if validation else _training_coils(size, coils, rng)
    kspace = measure(complex_object, maps, matrix)
    if coils > COILS_AFTER_COMPRESSION:
        kspace = np.einsum("vc,cyx->vyx", compression_matrix(kspace, COILS_AFTER_COMPRESSION), kspace)
    image = np.fft.ifft2(kspace, norm="ortho")
    rss = np.sqrt(np.sum(np.abs(image) ** 2, axis=0))
    return np.asarray(kspace / np.percentile(rss, 99), dtype=np.complex64)


def write_pool(
    folder: Path,
    volumes: list[Volume],
    count: int,
    seed: int,
    phantom_share: float,
    progress: Callable[[int, int], None],
    workers: int = 1,
) -> None:
    """Writes ``count`` acquisitions as ``NNNNN.npy``; those that exist are kept, so an interrupted run resumes.

    Args:
        workers: processes that share the work.

    Raises:
        OtherInputs: the folder's acquisitions were made of other volumes, with another seed or share, or by other code.
    """
    begin_pool(folder, record_of(volumes, count, seed, phantom_share))
    missing = [index for index in range(count) if not _path(folder, index).exists()]
    progress(count - len(missing), count)
    started_with = folder, volumes, seed, phantom_share
    if workers == 1:
        _receive(*started_with)
        for done, index in enumerate(missing, start=count - len(missing) + 1):
            _write(index)
            progress(done, count)
        return
    # Not forked: the caller may hold threads, torch's among them.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, _receive, started_with) as processes:
        for done, _ in enumerate(processes.map(_write, missing, chunksize=8), start=count - len(missing) + 1):
            progress(done, count)


def record_of(volumes: Sequence[Volume], count: int, seed: int, phantom_share: float) -> PoolRecord:
    """What `write_pool` makes of these."""
    inputs = {"volumes": volumes_digest(volumes), "seed": str(seed), "phantom_share": str(float(phantom_share))}
    return PoolRecord({**inputs, **made_by(__name__, libraries=COMPUTE)}, count)


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.npy"


_received: tuple[Path, list[Volume], int, float]
"""What a process that writes acquisitions was started with."""


def _receive(folder: Path, volumes: list[Volume], seed: int, phantom_share: float) -> None:
    global _received
    _received = folder, volumes, seed, phantom_share


def _write(index: int) -> None:
    folder, volumes, seed, phantom_share = _received
    kspace = simulate_acquisition(volumes, np.random.default_rng([seed, index]), phantom_share=phantom_share)
    partial = _path(folder, index).with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, kspace)
    partial.rename(_path(folder, index))


@dataclass(frozen=True)
class Entry:
    """An acquisition of the pool, its axes in one order or the other."""

    path: Path
    turned: bool

    def load(self) -> KSpace:
        """K-space ``(coils, phase_encodes, samples)``."""
        kspace: KSpace = np.load(self.path, allow_pickle=False)
        return kspace.transpose(0, 2, 1) if self.turned else kspace


class Pool:
    """What `write_pool` wrote, to draw from: each acquisition with either of its axes as phase encodes.

    Attributes:
        record: what its acquisitions were made of.
        files: of its acquisitions.

    Raises:
        FileNotFoundError: there is none, or not all of it is written.
        OtherInputs: it does not say what it was made of.
    """

    def __init__(self, folder: Path) -> None:
        if next(folder.glob("*.npy"), None) is None:
            raise FileNotFoundError(f"{folder}: the pool is empty; run edge-export pool first")
        self.record = read_record(folder)
        self.files = sorted(_path(folder, index) for index in range(self.record.count))
        if missing := sum(not path.exists() for path in self.files):
            raise FileNotFoundError(
                f"{folder}: {missing} of {len(self.files)} acquisitions are not written yet; run edge-export pool again"
            )
        self._entries: list[tuple[int, Entry]] = []  # with the number of phase encodes
        for path in self.files:
            _, *matrix = np.load(path, mmap_mode="r", allow_pickle=False).shape
            self._entries += [(matrix[turned], Entry(path, bool(turned))) for turned in range(2)]
        self._alike: dict[int, list[Entry]] = {}
        for lines, entry in self._entries:
            self._alike.setdefault(lines, []).append(entry)

    def choose(self, rng: np.random.Generator, count: int) -> list[Entry]:
        """``count`` acquisitions of one number of phase encodes; every acquisition is as likely as any other to be the first."""
        lines, first = self._entries[int(rng.integers(len(self._entries)))]
        alike = self._alike[lines]
        return [first, *(alike[int(index)] for index in rng.integers(len(alike), size=count - 1))]


def _training_coils(size: tuple[int, int], coils: int, rng: np.random.Generator) -> CoilMaps:
    """Loops; half of the few-channel coils are cages, whose channels see nearly the same, half of the arrays stand close."""
    common = rng.random() < 0.5
    if coils <= MOST_OF_A_CAGE and not common:
        return volume_coils(size, coils, rng)
    if coils >= FEWEST_OF_AN_ARRAY and not common:
        return loop_coils(size, coils, rng, CLOSE_RING)
    return loop_coils(size, coils, rng)


def _even(value: float) -> int:
    return 2 * round(value / 2)
