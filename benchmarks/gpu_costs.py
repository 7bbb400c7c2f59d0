"""Bytes and operations of the GPU's kernels, counted by what each of them does: for `benchmarks.gpu_prediction`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.modalities.mri.classical import STEPS
from edge_runtime.modalities.mri.coils import CALIBRATION_COLUMNS, KERNEL, MAP_GRID

COMPLEX, REAL = 8, 4
"""Bytes of a number."""

POWER_STEPS = 42
"""Of the power iteration that sensitivities begin with; by its nature it depends on the scan, on simulated ones this much."""

WARP = 32

TILE = 16
"""Rows and columns of the calibration matrix that a block has, kTile of ``kernels/cuda/sensitivity.cu``."""


@dataclass(frozen=True)
class Case:
    """The slice that is reckoned with, or the volume."""

    coils: int
    virtual_coils: int
    lines: int
    columns: int
    samples: int
    measured: float
    cg_steps: int
    acs_lines: int = 24
    partitions: int = 1

    @property
    def pixels(self) -> int:
        return self.lines * self.columns

    @property
    def image(self) -> int:
        """Bytes."""
        return COMPLEX * self.pixels

    @property
    def hybrid(self) -> int:
        """Bytes of all virtual coils."""
        return self.virtual_coils * self.image

    @property
    def unknowns(self) -> int:
        """Of the calibration matrix, a column each."""
        return self.virtual_coils * KERNEL**2

    @property
    def matrix(self) -> int:
        """Bytes of one of so many rows and columns, in double precision."""
        return 2 * COMPLEX * self.unknowns**2

    @property
    def application(self) -> Cost:
        """Of the normal operator, but for the image: maps are read before the transform and after it, the mask for each coil."""
        moved = 2 * self.hybrid + self.virtual_coils * REAL * self.pixels
        per_column = 2 * transform(self.lines) + 16 * self.lines
        return Cost(self.hybrid + REAL * self.pixels, moved, self.virtual_coils * self.columns * per_column)


class Cost(NamedTuple):
    """Of one launch.

    Attributes:
        least_bytes: that must move between the device's memory and the chip.
        bytes: that the kernel's loads and stores move, those too that a cache may answer.
        operations: of single precision.
        doubles: operations of double precision.
    """

    least_bytes: float
    bytes: float
    operations: float
    doubles: float = 0.0


class Launch(NamedTuple):
    """As the test driver saw it."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    @property
    def warps(self) -> int:
        """Of a block."""
        return -(-math.prod(self.block) // WARP)


def transform(length: int) -> float:
    """Operations, by the usual count."""
    return 5 * length * math.log2(max(length, 2))


def _ingest(case: Case, launch: Launch) -> Cost:
    readouts = launch.grid[0]
    moved = readouts * case.coils * COMPLEX * (case.samples + case.columns)
    return Cost(moved, moved, readouts * case.coils * transform(case.samples))


def _mean(case: Case, launch: Launch) -> Cost:
    moved = 2 * COMPLEX * case.coils * launch.grid[1] * case.columns
    return Cost(moved, moved, moved / REAL)


def _compress(case: Case, launch: Launch) -> Cost:
    lines = launch.grid[1]
    share = case.measured if lines == case.lines else 1.0
    read, written = (COMPLEX * count * lines * case.columns for count in (case.coils * share, case.virtual_coils))
    operations = 8 * case.coils * case.virtual_coils * share * lines * case.columns
    return Cost(read + written, math.ceil(case.virtual_coils / 8) * read + written, operations)


def _combine(case: Case, _: Launch) -> Cost:
    moved = case.measured * case.coils * case.image + REAL * case.pixels
    return Cost(moved, moved, case.coils * case.columns * (transform(case.lines) + 5 * case.lines))


def _set_maps(case: Case, _: Launch) -> Cost:
    return Cost(2 * case.hybrid, 2 * case.hybrid, 0)


def _set_samples(case: Case, _: Launch) -> Cost:
    least = 2 * case.hybrid + case.image + 5 * case.pixels
    moved = 2 * case.hybrid + 2 * case.hybrid + case.virtual_coils * REAL * case.pixels + 5 * case.pixels
    return Cost(least, moved, case.virtual_coils * case.columns * (transform(case.lines) + 10 * case.lines))


def _normal(case: Case, _: Launch) -> Cost:
    least, moved, operations = case.application[:3]
    return Cost(least + 2 * case.image, moved + 2 * case.image, operations)


def _data_consistent(case: Case, _: Launch) -> Cost:
    least, moved, operations = case.application[:3]
    steps = case.cg_steps
    vectors = (5 * steps + 8) * case.image
    return Cost(
        least + 3 * case.image, (steps + 1) * moved + vectors, (steps + 1) * operations + 20 * steps * case.pixels
    )


def _regularised(case: Case, _: Launch) -> Cost:
    least, moved, operations = case.application[:3]
    weights = 3 * 2 * REAL * case.pixels
    both_ways = 2 * case.columns * transform(case.lines)
    return Cost(
        least + 2 * case.image + REAL * case.pixels,
        STEPS * (moved + weights + 5 * case.image) + 3 * case.image,
        STEPS * (operations + both_ways + 40 * case.pixels),
    )


def _substituted(case: Case, _: Launch) -> Cost:
    results = 2 * REAL * case.pixels
    return Cost(
        2 * case.hybrid + case.image + case.pixels + results,
        5 * case.hybrid + case.virtual_coils * case.pixels + results,
        case.virtual_coils * case.columns * (2 * transform(case.lines) + 24 * case.lines),
    )


def _line_search(case: Case, _: Launch) -> Cost:
    return Cost(
        2 * case.hybrid + 2 * case.image + case.pixels,
        4 * case.hybrid + case.virtual_coils * case.pixels,
        case.virtual_coils * case.columns * (2 * transform(case.lines) + 26 * case.lines),
    )


def _pixelwise(*bytes_of_a_pixel: int) -> Callable[[Case, Launch], Cost]:
    def cost(case: Case, _: Launch) -> Cost:
        moved = sum(bytes_of_a_pixel) * case.pixels
        return Cost(moved, moved, 6 * case.pixels)

    return cost


def _sample_power(case: Case, _: Launch) -> Cost:
    moved = case.hybrid + REAL * case.pixels
    return Cost(moved, moved, 4 * case.virtual_coils * case.pixels)


def _gram(case: Case, _: Launch) -> Cost:
    windows = (case.acs_lines - KERNEL + 1) * (CALIBRATION_COLUMNS - KERNEL + 1)
    acs = COMPLEX * case.virtual_coils * case.acs_lines * CALIBRATION_COLUMNS
    elements = case.unknowns * (case.unknowns + TILE) / 2  # of half of the tiles, and of the diagonal's all
    read = COMPLEX * elements * windows * 2 / TILE  # a tile reads its rows' and its columns' samples
    return Cost(acs + case.matrix, read + case.matrix, 0, 8 * windows * elements)


def _square(case: Case, _: Launch) -> Cost:
    products = case.unknowns**3 / 2
    return Cost(2 * case.matrix, 32 * products / 16 + case.matrix, 0, 8 * products)


def _floor(case: Case, _: Launch) -> Cost:
    return Cost(case.matrix, POWER_STEPS * case.matrix, 0, POWER_STEPS * 8 * case.unknowns**2)


def _factor(case: Case, _: Launch) -> Cost:
    products = case.unknowns**3 / 3  # of U and of V, a sixth each
    return Cost(2 * case.matrix, 16 * products / 4 + 3 * case.matrix, 0, 8 * products)


def _lags(case: Case, _: Launch) -> Cost:
    products, lags = case.unknowns**3 / 6, 2 * COMPLEX * case.virtual_coils**2 * (2 * KERNEL - 1) ** 2 / 2
    return Cost(case.matrix / 2 + lags, 32 * products / 16 + 2 * case.matrix + lags, 0, 8 * products)


def _maps_of_grid(case: Case, launch: Launch) -> Cost:
    coils, points, lags = case.virtual_coils, launch.grid[0] * min(MAP_GRID, case.columns), 2 * KERNEL - 1
    sums = COMPLEX * coils**2 * lags**2  # of pairs of coils, in double precision
    maps = COMPLEX * coils * points
    operations = points * (8 * lags * coils**2 + 6 * 10 * coils**3)
    return Cost(sums + maps, launch.grid[0] * sums + maps, operations, launch.grid[0] * 4 * coils**2 * lags**2)


def _maps_of_image(case: Case, _: Launch) -> Cost:
    weight = REAL * case.pixels
    maps = COMPLEX * case.virtual_coils * MAP_GRID**2
    return Cost(
        maps + weight + case.hybrid, 8 * case.hybrid + weight + case.hybrid, 2 * 24 * case.virtual_coils * case.pixels
    )


def _volume(*images: float) -> Callable[[Case, Launch], Cost]:
    """Of packed images of a volume, read or written; a kernel that goes through their rows."""

    def cost(case: Case, _: Launch) -> Cost:
        moved = sum(images) * case.partitions * case.image
        return Cost(moved, moved, 8 * len(images) * case.partitions * case.pixels)

    return cost


def _volume_forward_along(case: Case, _: Launch) -> Cost:
    """Maps are read, and the image for each coil, and work is written."""
    image, coils = case.partitions * case.image, case.coils
    return Cost((2 * coils + 1) * image, 3 * coils * image, _along(case))


def _volume_inverse_along(case: Case, _: Launch) -> Cost:
    """Maps and work are read, and the image is written once, as shared memory holds the sum over coils."""
    moved = (2 * case.coils + 1) * case.partitions * case.image
    return Cost(moved, moved, _along(case))


def _along(case: Case) -> float:
    return case.coils * case.partitions * case.columns * (transform(case.lines) + 8 * case.lines)


def _volume_through(case: Case, _: Launch) -> Cost:
    image, coils = case.partitions * case.image, case.coils
    operations = coils * case.pixels * (2 * transform(case.partitions) + 2 * case.partitions)
    return Cost((2 * coils + 0.5) * image, 2.5 * coils * image, operations)


def _adaptive_images(case: Case, _: Launch) -> Cost:
    moved = 2 * case.coils * case.image
    return Cost(moved, moved, case.coils * case.columns * (transform(case.lines) + 6 * case.lines))


def _adaptive_maps(case: Case, _: Launch) -> Cost:
    cells = case.pixels / 64
    moved = case.coils * (case.image + COMPLEX * cells)
    squares = 6 * 8 * case.coils**3 * cells
    return Cost(moved, moved, 4 * case.coils**2 * case.pixels + squares)


def _adaptive_combine(case: Case, _: Launch) -> Cost:
    maps = 4 * COMPLEX * case.coils * case.pixels  # of the four cells around each pixel, which a cache mostly answers
    moved = (case.coils + 1) * case.image
    return Cost(moved, moved + maps, 40 * case.coils * case.pixels)


COSTS: dict[str, Callable[[Case, Launch], Cost]] = {
    "ingest_readouts": _ingest,
    "ingest_mean": _mean,
    "coils_compress": _compress,
    "coils_root_sum_of_squares": _combine,
    "sensitivity_gram": _gram,
    "sensitivity_square": _square,
    "sensitivity_floor": _floor,
    "sensitivity_factor": _factor,
    "sensitivity_lags": _lags,
    "sensitivity_maps_of_grid": _maps_of_grid,
    "sensitivity_maps_of_image": _maps_of_image,
    "sense_set_maps": _set_maps,
    "sense_set_samples": _set_samples,
    "sense_normal": _normal,
    "sense_gradient": _normal,
    "sense_data_consistent": _data_consistent,
    "sense_regularised": _regularised,
    "sense_substituted": _substituted,
    "sense_line_search": _line_search,
    "sense_between": _pixelwise(COMPLEX, COMPLEX, COMPLEX),
    "sense_sample_power": _sample_power,
    "adaptive_images": _adaptive_images,
    "adaptive_maps": _adaptive_maps,
    "adaptive_combine": _adaptive_combine,
    "volume_pack": _volume(1, 1),
    "volume_unpack": _volume(1, 1),
    "volume_forward_along": _volume_forward_along,
    "volume_mask_through": _volume_through,
    "volume_inverse_along": _volume_inverse_along,
    "volume_begin": _volume(1, 1, 1, 1, 1),
    "volume_curvature": _volume(1, 1),
    "volume_step": _volume(1, 1, 1, 1, 1, 1),
    "volume_turn": _volume(1, 1, 1),
    "pack_float32": _pixelwise(COMPLEX, COMPLEX, REAL, REAL),
    "fill_float32": _pixelwise(REAL),
    "unpack_float32": _pixelwise(COMPLEX, COMPLEX, REAL, REAL, COMPLEX),
}
"""Of every kernel whose time is reckoned."""
