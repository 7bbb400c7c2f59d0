"""The tables of what kernels should take, as far as they can be checked without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.gpu_costs import COSTS, Case, Launch
from benchmarks.gpu_prediction import predicted_us, registers, resident_blocks
from edge_runtime.modalities.mri.coils import CALIBRATION_COLUMNS, KERNEL
from edge_runtime.profile import load_profile

pytestmark = pytest.mark.cuda

CASE = Case(coils=8, virtual_coils=8, lines=256, columns=256, samples=256, measured=0.25, cg_steps=5)


@pytest.mark.parametrize(
    ("warps", "registers_of_a_thread", "shared_bytes", "blocks"),
    [
        (4, 32, 0, 12),  # all 48 warps
        (4, 128, 0, 4),  # registers
        (4, 80, 0, 6),
        (4, 72, 0, 7),  # 2304 a warp: 28 warps
        (2, 112, 0, 8),  # 3584 a warp: 18, of which 16 by fours
        (4, 32, 48 << 10, 3),  # shared memory: 49 KB each of 164
        (1, 16, 0, 16),  # blocks
        (8, 255, 0, 1),
    ],
)
def test_resident_blocks_are_those_of_nvidias_calculator(warps, registers_of_a_thread, shared_bytes, blocks):
    assert resident_blocks(warps, registers_of_a_thread, shared_bytes) == blocks


def test_every_kernel_whose_cost_is_told_exists():
    assert set(COSTS) <= set(registers())


def test_the_way_back_of_a_volume_moves_its_sum_once():
    """Per coil and element, maps and work; the image when all coils are in it."""
    volume = replace(CASE, partitions=4)
    elements = volume.partitions * volume.lines * volume.columns
    launch = Launch("volume_inverse_along", (2, 4, 1), (2, 64, 1), 0)
    assert COSTS[launch.kernel](volume, launch).bytes == 8 * elements * (2 * volume.coils + 1)


def test_the_gram_matrix_is_made_of_whole_tiles():
    """36 of 64: threads of the diagonal's tiles below the diagonal work as the others do."""
    windows, of_a_tile = (24 - KERNEL + 1) * (CALIBRATION_COLUMNS - KERNEL + 1), 16 * 16
    tiles = (CASE.unknowns // 16) * (CASE.unknowns // 16 + 1) // 2
    cost = COSTS["sensitivity_gram"](CASE, Launch("sensitivity_gram", (8, 8, 1), (16, 16, 1), 8192))
    assert cost.doubles == 8 * windows * of_a_tile * tiles


def test_data_consistency_reads_and_writes_an_image_eight_times_beside_its_steps():
    launch = Launch("sense_data_consistent", (32, 1, 1), (4, 32, 1), 0)
    of_steps = [COSTS[launch.kernel](replace(CASE, cg_steps=steps), launch).bytes for steps in (0, 1)]
    assert of_steps[0] == CASE.application.bytes + 8 * CASE.image
    assert of_steps[1] - of_steps[0] == CASE.application.bytes + 5 * CASE.image


def test_a_copy_takes_what_the_memory_gives():
    gpu = load_profile("jetson-orin-nano").gpu
    assert gpu is not None
    launch = Launch("sense_set_maps", (32, 1, 1), (4, 32, 1), 0)
    assert predicted_us(CASE, launch, gpu) == pytest.approx(2 * 8 * 256 * 256 * 8 / (0.75 * 68e9) * 1e6)
    uneven = Launch("sense_set_maps", (9, 1, 1), (4, 32, 1), 0)  # on 8 multiprocessors
    assert predicted_us(CASE, uneven, gpu) == pytest.approx(16 / 9 * predicted_us(CASE, launch, gpu))
