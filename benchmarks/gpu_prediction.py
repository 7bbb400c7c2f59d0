"""What the GPU's kernels move, compute and hold, and how long that must take on each Jetson: ``docs/gpu.md``.

    make gpu-tables

Nothing here is measured on a GPU. One slice of the drawn head is reconstructed on the test driver, which tells what is launched
with which grid; registers are what the compiler says of the cubins; bytes and operations are counted by what each kernel does.
"""

from __future__ import annotations

import argparse
import ctypes
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.brain_phantom import COILS, MATRIX, Phantom, phantom
from benchmarks.gpu_costs import COSTS, POWER_STEPS, WARP, Case, Launch
from edge_runtime.bundle import load_bundle
from edge_runtime.bundle.load import DEFAULT_BUNDLE
from edge_runtime.cuda.device import DRIVER_LIBRARY
from edge_runtime.kernels import AdaptivePlan, CoilPlan, Plans, SensePlan, SensitivityPlan, VolumeSensePlan, Workers
from edge_runtime.modalities.mri.assemble import Assembler
from edge_runtime.modalities.mri.layout import Layout
from edge_runtime.modalities.mri.reconstruct import MAX_VIRTUAL_COILS, calibrate, reconstruct
from edge_runtime.profile import DEFAULT_PROFILE, GpuFacts, available_profiles, load_profile
from edge_runtime.runtime import prepare_model

ROOT = Path(__file__).resolve().parents[1]
CUBINS = ROOT / "edge_runtime" / "cubins" / "12.6" / "sm_87"
CUOBJDUMP = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "cuobjdump"

MEMORY_SHARE, ARITHMETIC_SHARE = 0.75, 0.4
"""Of what data sheets promise: streams reach about so much of a memory's bandwidth; transforms mostly add, where the promised rate
multiplies and adds at once."""

VOLUME_STEPS = 10
"""Of the volume's conjugate gradients."""

DOUBLE_SHARE = 1 / 64
"""Of the rate of single precision: what compute capability 8.6 has (CUDA C++ Programming Guide), and is taken for all of them."""


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
    technical specifications): 48 warps, 16 blocks, 65,536 registers given by 256 to four warps at a time, 164 KB of shared memory
    of which every block takes one KB more than it asks for."""
    of_a_warp = math.ceil(registers_of_a_thread * WARP / 256) * 256
    by_registers = 65536 // of_a_warp // 4 * 4 // warps
    by_shared = (164 << 10) // (shared_bytes + 1024) if shared_bytes else 16
    return min(16, 48 // warps, by_registers, by_shared)


def most_resident(launch: Launch) -> float:
    """Share of an Orin's warps that can be resident, were there blocks enough."""
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
    launches: list[Launch] = []
    with watched(launches):
        assembler = Assembler(header, Layout.of(header), profile.samples_bytes, "cuda")
        for batch in scan.recording.readouts():
            for begin in range(0, len(batch), 16):
                (key, _), *_ = assembler.add(batch[begin : begin + 16])
        samples, to_calibrate = assembler.take(key)
        calibration = calibrate(to_calibrate.hybrid(), to_calibrate.measured, plans)
        for _ in reconstruct(samples, calibration, model.reconstruction, plans):
            pass
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
    return case, launches


def launches_of_a_combination() -> tuple[Case, list[Launch]]:
    """An adaptive combination of 8 coils and 256 x 256, which no reconstruction makes yet."""
    launches: list[Launch] = []
    plan = AdaptivePlan(Workers(1), COILS, MATRIX, MATRIX, device="cuda")
    with watched(launches):
        np.asarray(plan.combine(np.ones((COILS, MATRIX, MATRIX), np.complex64), np.ones(MATRIX, np.bool_)))
    return Case(COILS, COILS, MATRIX, MATRIX, MATRIX, 1.0, 0), launches


def launches_of_a_volume() -> tuple[Case, list[Launch]]:
    """Data consistency of a slab of a volume, which no reconstruction solves yet; maps and samples have been set before."""
    launches: list[Launch] = []
    case = Case(COILS, COILS, 128, 32, 32, 1.0, VOLUME_STEPS, partitions=64)
    shape = case.partitions, case.lines, case.columns
    ones = np.ones((COILS, *shape), np.complex64)
    plan = VolumeSensePlan(Workers(1), COILS, *shape, device="cuda")
    plan.set_maps(ones)
    plan.set_samples(ones, np.ones(shape, np.bool_))
    np.asarray(plan.normal(ones[0]))  # what was launched before is done
    with watched(launches):
        np.asarray(plan.data_consistent(ones[0], 0.1, VOLUME_STEPS))
    return case, launches


@contextmanager
def watched(launches: list[Launch]) -> Iterator[None]:
    """Adds what the test driver launches meanwhile, as it waits for it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "launches"
        os.environ["EDGE_DRIVER_LOG"] = str(log)
        try:
            yield
        finally:
            del os.environ["EDGE_DRIVER_LOG"]
        launches += [launch_of(line) for line in log.read_text().splitlines()]


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


class Sequence(NamedTuple):
    """One call of a plan, launched kernel by kernel and with a graph.

    Attributes:
        launches, launches_beside_graph: of kernels; there is one graph.
        host_us, host_us_with_graph: median of what the call takes of the processor when nothing is waited for.
    """

    name: str
    launches: int
    host_us: float
    launches_beside_graph: int
    host_us_with_graph: float


def sequences() -> Iterator[Sequence]:
    """Of the plans that have graphs, with small arrays: neither launches nor the processor's part of them depend on the size."""
    rng = np.random.default_rng(0)
    samples, lines = rng.standard_normal((2, 8, 8)).astype(np.complex64), np.ones(8, np.bool_)
    acs = CoilPlan(Workers(1), *samples.shape, device="cuda").compress(samples, lines, np.eye(2, dtype=np.complex64))
    sensitivities = SensitivityPlan(Workers(1), 2, (8, 8), (3, 3), (8, 8), (16, 16), device="cuda")
    maps = sensitivities.estimate(acs, 0.02)
    yield _sequence("coil sensitivities", lambda number: sensitivities.estimate(acs, 0.02 + number, out=maps))
    shape = 2, 4, 8, 4
    ones = np.ones(shape, np.complex64)
    volume = VolumeSensePlan(Workers(1), *shape, device="cuda")
    volume.set_maps(ones)
    volume.set_samples(ones, np.ones(shape[1:], np.bool_))
    prior, out = volume.normal(ones[0]), volume.normal(ones[0])
    yield _sequence(
        f"a volume's data consistency, {VOLUME_STEPS} steps",
        lambda number: volume.data_consistent(prior, 0.1 + number, VOLUME_STEPS, out=out),
    )


def _sequence(name: str, call: Callable[[float], Any]) -> Sequence:
    """What a call takes whose number is another each time, which no graph is made for, and one whose number is the same."""
    library = ctypes.CDLL(DRIVER_LIBRARY)
    measured = []
    for step in (1e-4, 0.0):
        times, launches = [], 0
        for turn in range(100):
            before = library.edge_driver_calls(b"cuLaunchKernel")
            begin = time.perf_counter()
            result = call(step * turn)
            times.append(1e6 * (time.perf_counter() - begin))
            launches = library.edge_driver_calls(b"cuLaunchKernel") - before
        np.asarray(result)  # not before: it would cool the processor's caches
        measured.append((launches, statistics.median(times[20:])))
    (launches, host_us), (beside, with_graph) = measured
    return Sequence(name, launches, host_us, beside, with_graph)


def page(host_us: tuple[float, float], measured: list[Sequence]) -> Iterator[str]:
    """The lines of ``docs/gpu.md``."""
    devices = {name: gpu for name in sorted(available_profiles()) if (gpu := load_profile(name).gpu) is not None}
    names = [name.removeprefix("jetson-") for name in devices]
    case, launches = launches_of_a_slice(phantom())
    text = INTRODUCTION.format(case=case, power_steps=POWER_STEPS, memory=MEMORY_SHARE, arithmetic=ARITHMETIC_SHARE)
    yield from (*text.splitlines(), "")
    yield from _table(case, launches, devices)
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
        "A Jetson's cores are slower, and its driver adds its own."
    )
    yield from ("", *GRAPHS.splitlines(), "")
    yield from _heading("", "launches", "beside the graph", "host us, one by one", "with the graph")
    for one in measured:
        times = f"{one.host_us:.0f}", f"{one.host_us_with_graph:.0f}"
        yield _row(one.name, one.launches, one.launches_beside_graph, *times)
    yield from ("", "## What no reconstruction launches yet", "")
    case, launches = launches_of_a_combination()
    yield from (f"Adaptive combination, {case.coils} coils, {case.lines} x {case.columns}:", "")
    yield from _table(case, launches, devices)
    case, launches = launches_of_a_volume()
    slab = f"{case.partitions} x {case.lines} x {case.columns}"
    yield from ("", f"{case.cg_steps} steps of data consistency, {case.coils} coils, {slab}:", "")
    yield from _table(case, launches, devices)


def _table(case: Case, launches: list[Launch], devices: Mapping[str, GpuFacts]) -> Iterator[str]:
    """A row a kind of launch, the dearest first."""
    names = [name.removeprefix("jetson-") for name in devices]
    columns = ["kernel, grid", "launches", "must move, MB", "moves, MB", "MFLOP", "double", "registers", "shared, KB"]
    yield from _heading(*columns, "resident at most", *names)
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
            f"{100 * most_resident(launch):.0f} %",
            *(f"{predicted_us(case, launch, gpu):.0f}" for gpu in devices.values()),
        )


def _heading(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield "|" + "---|" * len(columns)


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _dearest_first(case: Case, launches: list[Launch], gpu: GpuFacts) -> list[Launch]:
    """Every kind of launch once, by the time of all of a kind."""
    return sorted(dict.fromkeys(launches), key=lambda launch: -launches.count(launch) * predicted_us(case, launch, gpu))


INTRODUCTION = """# What the GPU's kernels should take

*Made by `make gpu-tables` (`benchmarks/gpu_prediction.py`). Nothing here was measured on a GPU; `make test-device` does.*

The slice: {case.lines} x {case.columns}, {case.coils} coils ({case.virtual_coils} virtual), {case.measured:.2f} of the lines
measured, the shipped network's iterations of {case.cg_steps} steps. It is streamed and reconstructed on the test driver, which
tells what is launched. The network itself runs between these launches, on TensorRT or ONNX Runtime, and is not in here; nor are
copies between host and GPU: readouts as they come, and images, and with an engine on the CPU the network's inputs and outputs.

*Must move*: each array that goes in or out, once. *Moves*: every load and store of the kernel's, those too that a cache answers.
*MFLOP*: transforms count 5 n log2 n; *double* are those of double precision, {power_steps} steps of the power iteration among them.
*Registers* by the compiler of CUDA 12.6 for Orin (sm_87); *resident at most* is the share of an Orin multiprocessor's warps for
which registers and shared memory suffice. Many grids are too small to use it: 32 blocks are 4 for each of the 8 multiprocessors
of an Orin Nano, 2 on an AGX Orin.

The time is the larger of bytes moved over {memory} of the memory's bandwidth and operations over {arithmetic} of the arithmetic's
rate (transforms mostly add; the rate promised multiplies and adds), those of double precision over 1/64 of it, stretched where
blocks can't be shared out evenly.
Bandwidth, clocks and multiprocessors are those of the data sheets named in `hw_profiles/`. Caches can make it less; barriers,
latencies, other users of the memory and clocks that sink with heat make it more."""


GRAPHS = """## Graphs

Launches that touch the plan's own memory alone, and come again with the same numbers, are one call of the driver from the
second time on, a CUDA graph (`edge_runtime/cuda/graph.py`): of `SensitivityPlan` from the Gram matrix to the maps of the grid,
by which every slice but the first gains, and of `VolumeSensePlan` the normal operator and whole solves. What takes an array of
a caller or makes one is launched beside it: arrays may be anywhere, and a graph is as good for the next ones. The other plans
launch one kernel a call, or three of which two have arrays of callers (`AdaptivePlan`); a slice's other launches have the
network, or the host, between them.

Of the processor, as above; on a GPU a graph also has less time between its kernels, which nothing here shows."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu.md")
    out = parser.parse_args().out
    out.write_text("\n".join(page(host_us_a_launch(), list(sequences()))) + "\n", encoding="utf-8")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
