"""What the GPU's kernels move, compute and hold, and how long that must take on each Jetson: ``docs/gpu.md``.

    make gpu-tables

Nothing here is measured on a GPU. One slice of the drawn head is reconstructed on the test driver, which tells what is launched
with which grid; registers are what the compiler says of the cubins; bytes and operations are counted by what each kernel does.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.brain_phantom import Phantom, phantom
from edge_runtime.bundle import load_bundle
from edge_runtime.bundle.load import DEFAULT_BUNDLE
from edge_runtime.kernels import Plans, SensePlan, Workers
from edge_runtime.modalities.mri.assemble import Assembler
from edge_runtime.modalities.mri.classical import STEPS
from edge_runtime.modalities.mri.coils import CALIBRATION_COLUMNS, KERNEL, MAP_GRID
from edge_runtime.modalities.mri.layout import Layout
from edge_runtime.modalities.mri.reconstruct import MAX_VIRTUAL_COILS, calibrate, reconstruct
from edge_runtime.profile import DEFAULT_PROFILE, GpuFacts, available_profiles, load_profile
from edge_runtime.runtime import prepare_model

ROOT = Path(__file__).resolve().parents[1]
CUBINS = ROOT / "edge_runtime" / "cubins" / "12.6" / "sm_87"
CUOBJDUMP = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "cuobjdump"

COMPLEX, REAL = 8, 4
"""Bytes of a number."""

MEMORY_SHARE, ARITHMETIC_SHARE = 0.75, 0.4
"""Of what data sheets promise: streams reach about so much of a memory's bandwidth; transforms mostly add, where the promised rate
multiplies and adds at once."""

DOUBLE_SHARE = 1 / 64
"""Of the rate of single precision: what compute capability 8.6 has (CUDA C++ Programming Guide), and is taken for all of them."""

POWER_STEPS = 42
"""Of the power iteration that sensitivities begin with; by its nature it depends on the scan, on simulated ones this much."""

WARP = 32


@dataclass(frozen=True)
class Case:
    """The slice that is reckoned with."""

    coils: int
    virtual_coils: int
    lines: int
    columns: int
    samples: int
    measured: float
    cg_steps: int
    acs_lines: int = 24

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
    vectors = (5 * steps + 5) * case.image
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
    read = COMPLEX * case.unknowns**2 * windows / 16  # half of the tiles, each element from 32 others' samples
    return Cost(acs + case.matrix, read + case.matrix, 0, 4 * windows * case.unknowns**2)


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
    "pack_float32": _pixelwise(COMPLEX, REAL, REAL),
    "fill_float32": _pixelwise(REAL),
    "unpack_float32": _pixelwise(COMPLEX, REAL, REAL, COMPLEX),
}
"""Of every kernel that a reconstruction launches."""


@functools.cache
def registers() -> dict[str, int]:
    """Of a thread of every kernel, as the compiler of CUDA 12.6 has it for Orin."""
    found = {}
    for cubin in sorted(CUBINS.glob("*.cubin")):
        command = [str(CUOBJDUMP), "--dump-resource-usage", str(cubin)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.update({name: int(count) for name, count in re.findall(r"Function (\w+):\s+REG:(\d+)", text)})
    return found


def resident_blocks(warps: int, registers_of_a_thread: int, shared_bytes: int) -> int:
    """Blocks that an Orin's multiprocessor holds at once, by the limits of compute capability 8.7 (CUDA C++ Programming Guide,
    technical specifications): 48 warps, 16 blocks, 65,536 registers given to warps by 256, 164 KB of shared memory of which every
    block takes one KB more than it asks for."""
    of_a_warp = math.ceil(registers_of_a_thread * WARP / 256) * 256
    by_registers = (65536 // of_a_warp) // warps
    by_shared = (164 << 10) // (shared_bytes + 1024) if shared_bytes else 16
    return min(16, 48 // warps, by_registers, by_shared)


def occupancy(launch: Launch) -> float:
    """Share of an Orin's warps that are resident when there are blocks enough."""
    return resident_blocks(launch.warps, registers()[launch.kernel], launch.shared_bytes) * launch.warps / 48


def predicted_us(case: Case, launch: Launch, gpu: GpuFacts) -> float:
    """What a launch takes: the larger of what its bytes and its operations take, stretched where blocks can't be shared out
    evenly."""
    cost = COSTS[launch.kernel](case, launch)
    by_memory = cost.bytes / (MEMORY_SHARE * gpu.memory_gb_per_s * 1e9)
    rate = gpu.multiprocessors * 128 * 2 * gpu.clock_mhz * 1e6
    by_doubles = cost.doubles / (DOUBLE_SHARE * rate)
    evenly = launch.blocks / gpu.multiprocessors
    by_arithmetic = cost.operations / (ARITHMETIC_SHARE * rate) + by_doubles
    return 1e6 * max(by_memory, by_arithmetic) * math.ceil(evenly) / evenly


def launches_of_a_slice(scan: Phantom) -> tuple[Case, list[Launch]]:
    """What a streamed slice of 256 x 256 and 8 coils launches from its first readout to its last image."""
    header, profile = scan.recording.header, load_profile(DEFAULT_PROFILE)
    model = prepare_model(load_bundle(DEFAULT_BUNDLE, None), profile, "fp32")
    plans = Plans(Workers(1), "cuda")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGE_DRIVER_LOG"] = str(Path(folder) / "launches")
        assembler = Assembler(header, Layout.of(header), profile.samples_bytes, "cuda")
        for batch in scan.recording.readouts():
            for begin in range(0, len(batch), 16):
                (key, _), *_ = assembler.add(batch[begin : begin + 16])
        samples, to_calibrate = assembler.take(key)
        calibration = calibrate(to_calibrate.hybrid(), to_calibrate.measured, plans)
        for _ in reconstruct(samples, calibration, model.reconstruction, plans):
            pass
        del os.environ["EDGE_DRIVER_LOG"]
        text = (Path(folder) / "launches").read_text()
    coils, lines, columns = samples.hybrid.shape
    case = Case(
        coils,
        min(coils, MAX_VIRTUAL_COILS),
        lines,
        columns,
        header.encoding.encoded.matrix[0],
        float(scan.mask.mean()),
        model.bundle.unrolled.cg_steps,
        calibration.acs.stop - calibration.acs.start,
    )
    return case, [launch_of(line) for line in text.splitlines()]


def launch_of(line: str) -> Launch:
    name, *numbers = line.split()
    sizes = [int(number) for number in numbers]
    return Launch(name, (sizes[0], sizes[1], sizes[2]), (sizes[3], sizes[4], sizes[5]), sizes[6])


def host_us_a_launch() -> tuple[float, float]:
    """Median and 90th percentile of what one plan's call takes of the processor when nothing is waited for, arrays on the GPU."""
    plan = SensePlan(Workers(1), 1, 256, 256, device="cuda")
    plan.set_maps(np.ones((1, 256, 256), np.complex64))
    one, other = (
        plan.between(np.ones((256, 256), np.complex64), np.ones((256, 256), np.complex64), 0.5) for _ in range(2)
    )
    times = []
    for _ in range(400):
        begin = time.perf_counter()
        plan.between(one, other, 0.5, one)
        times.append(1e6 * (time.perf_counter() - begin))
    np.asarray(one)
    ordered = sorted(times[50:])
    return statistics.median(ordered), ordered[int(0.9 * len(ordered))]


def page(case: Case, launches: list[Launch], host_us: tuple[float, float]) -> Iterator[str]:
    """The lines of ``docs/gpu.md``."""
    devices = {name: gpu for name in sorted(available_profiles()) if (gpu := load_profile(name).gpu) is not None}
    names = [name.removeprefix("jetson-") for name in devices]
    yield from INTRODUCTION.format(
        case=case, power_steps=POWER_STEPS, memory=MEMORY_SHARE, arithmetic=ARITHMETIC_SHARE
    ).splitlines()
    yield ""
    columns = [
        "kernel, grid",
        "launches",
        "must move, MB",
        "moves, MB",
        "MFLOP",
        "double",
        "registers",
        "shared, KB",
        "occupancy",
    ]
    yield from _heading(*columns, *names)
    for launch in _dearest_first(case, launches, next(iter(devices.values()))):
        cost = COSTS[launch.kernel](case, launch)
        yield _row(
            f"`{launch.kernel}` {launch.grid[0]}x{launch.grid[1]}",
            launches.count(launch),
            f"{cost.least_bytes / 1e6:.2f}",
            f"{cost.bytes / 1e6:.2f}",
            f"{cost.operations / 1e6:.1f}",
            f"{cost.doubles / 1e6:.1f}",
            registers()[launch.kernel],
            f"{launch.shared_bytes / 1024:.0f}",
            f"{100 * occupancy(launch):.0f} %",
            *(f"{predicted_us(case, launch, gpu):.0f}" for gpu in devices.values()),
        )
    yield from ("", "Times are microseconds a launch. The whole slice, in milliseconds:", "")
    yield from _heading("", "launches", *names)
    arriving = [launch for launch in launches if launch.kernel == "ingest_readouts"]
    after = [launch for launch in launches if launch.kernel != "ingest_readouts"]
    for what, some in (("ingest, while readouts arrive", arriving), ("from the last readout on", after)):
        totals = (sum(predicted_us(case, launch, gpu) for launch in some) / 1e3 for gpu in devices.values())
        yield _row(what, len(some), *(f"{total:.1f}" for total in totals))
    middle, most = host_us
    yield ""
    yield (
        f"The processor's part of a launch: {middle:.0f} us (90th percentile {most:.0f}), Python and PyCUDA together, measured "
        f"where this page was made with the test driver in the driver's place; {len(after) * middle / 1e3:.1f} ms for a slice. "
        "A Jetson's cores are slower, and its driver adds its own. PyCUDA has no graphs, and so few launches would gain little "
        "by one."
    )


def _heading(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield "|" + "---|" * len(columns)


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _dearest_first(case: Case, launches: list[Launch], gpu: GpuFacts) -> list[Launch]:
    """Every kind of launch once, by the time of all of a kind."""
    return sorted(set(launches), key=lambda launch: -launches.count(launch) * predicted_us(case, launch, gpu))


INTRODUCTION = """# What the GPU's kernels should take

*Made by `make gpu-tables` (`benchmarks/gpu_prediction.py`). Nothing here was measured on a GPU; `make test-device` does.*

The slice: {case.lines} x {case.columns}, {case.coils} coils ({case.virtual_coils} virtual), {case.measured:.2f} of the lines
measured, the shipped network's iterations of {case.cg_steps} steps. It is streamed and reconstructed on the test driver, which
tells what is launched. The network itself runs between these launches, on TensorRT or ONNX Runtime, and is not in here.

*Must move*: each array that goes in or out, once. *Moves*: every load and store of the kernel's, those too that a cache answers.
*MFLOP*: transforms count 5 n log2 n; *double* are those of double precision, {power_steps} steps of the power iteration among them.
*Registers* by the compiler of CUDA 12.6 for Orin (sm_87); *occupancy* is the share of an
Orin multiprocessor's warps that are resident.

The time is the larger of bytes moved over {memory} of the memory's bandwidth and operations over {arithmetic} of the arithmetic's
rate (transforms mostly add; the rate promised multiplies and adds), those of double precision over 1/64 of it, stretched where
blocks can't be shared out evenly.
Bandwidth, clocks and multiprocessors are those of the data sheets named in `hw_profiles/`. Caches can make it less; barriers,
latencies, other users of the memory and clocks that sink with heat make it more."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu.md")
    arguments = parser.parse_args()
    case, launches = launches_of_a_slice(phantom())
    arguments.out.write_text("\n".join(page(case, launches, host_us_a_launch())) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(launches)} launches of {len({launch.kernel for launch in launches})} kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
