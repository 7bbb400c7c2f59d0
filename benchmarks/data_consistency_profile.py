"""What stands between `kernels.data_consistency_ms` and its roofline: instructions, waking, memory.

    python -m benchmarks.data_consistency_profile [--calls N]

With ``--calls`` it makes so many calls and prints nothing: what ``valgrind --tool=callgrind`` counts for N and for 0 calls differs
by N calls' instructions. Without, it counts so itself where valgrind is installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from edge_runtime.kernels import SensePlan, Workers, instruction_set
from export.simulate.receive import complex_noise

COILS, LINES, COLUMNS = 8, 256, 256
THREADS = (1, 2)
REST_S = 0.02
RUNS = 60
COUNTED_CALLS = 10
FAR_BYTES = 32 << 20
"""Read between two calls, more than any cache holds."""

FLOATS_PER_INSTRUCTION = {"avx512": 8, "avx2": 8}
"""Of the kernels' vectors; both use 256 bits."""


def main() -> int:
    """Prints the table, or makes calls for a profiler."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_consistency_profile", description=__doc__)
    parser.add_argument("--calls", type=int, metavar="N", help="make N calls on one thread, and nothing else")
    options = parser.parse_args()
    if options.calls is not None:
        call = gradient(1)
        for _ in range(options.calls):
            call()
        return 0
    print("\n".join(lines()))
    return 0


def gradient(threads: int, columns: int = COLUMNS) -> Callable[[], object]:
    """One gradient step of data consistency of a slice, as the benchmark times it."""
    rng = np.random.default_rng(0)
    shape = COILS, LINES, columns
    plan = SensePlan(Workers(threads), *shape)
    mask = np.zeros((LINES, columns), np.bool_)
    mask[rng.choice(LINES, LINES // 4, replace=False)] = True
    plan.set_maps(complex_noise(shape, rng) / np.float32(3))
    plan.set_samples(complex_noise(shape, rng) * mask, mask)
    image = complex_noise(shape[1:], rng)
    out = np.empty_like(image)
    return lambda: plan.gradient(image, out)


def lines() -> list[str]:
    """The table in Markdown, and the instructions below it."""
    far = np.ones(FAR_BYTES // 4, np.float32)
    table = [
        "| threads | back to back, ms | after a rest, ms | with far caches, ms | sgemm, GFLOP/s |",
        "|---|---|---|---|---|",
    ]
    for threads in THREADS:
        call = gradient(threads)
        figures = [milliseconds(call), milliseconds(call, rest_s=REST_S), milliseconds(call, before=lambda: far.sum())]
        table.append(
            f"| {threads} | {' | '.join(f'{figure:.2f}' for figure in figures)} | {sgemm_rate(threads) / 1e9:.0f} |"
        )
    counted = instructions()
    operations = COILS * COLUMNS * (2 * 5 * LINES * np.log2(LINES) + 16 * LINES)
    if counted is None:
        return [*table, "", "instructions: valgrind is not installed"]
    least = operations / FLOATS_PER_INSTRUCTION.get(instruction_set(), 4)
    return [
        *table,
        "",
        f"{counted / 1e6:.2f} M instructions a call ({instruction_set()}) for {operations / 1e6:.1f} MFLOP; "
        f"without fused operations their arithmetic alone is {least / 1e6:.2f} M, sgemm's, all fused, would be {least / 2e6:.2f} M",
    ]


def milliseconds(call: Callable[[], object], rest_s: float = 0.0, before: Callable[[], object] = lambda: None) -> float:
    """Median time of a call; the core is kept awake while it rests."""
    times = []
    for _ in range(RUNS + 3):
        rested = time.perf_counter() + rest_s
        while time.perf_counter() < rested:
            pass
        before()
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[3:])


def sgemm_rate(threads: int) -> float:
    """Floating-point operations a second."""
    import torch  # not where valgrind counts: it takes minutes there

    torch.set_num_threads(threads)
    matrix = torch.ones(1024, 1024)
    return 2e3 * 1024**3 / milliseconds(lambda: matrix @ matrix)


def instructions() -> float | None:
    """Of one call on one thread; ``None`` without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    counts = []
    for calls in (0, COUNTED_CALLS):
        command = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            sys.executable,
            "-m",
            __spec__.name,
        ]
        done = subprocess.run([*command, "--calls", str(calls)], capture_output=True, text=True, check=True)
        found = re.search(r"Collected : (\d+)", done.stderr)
        assert found is not None, done.stderr
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) / COUNTED_CALLS


if __name__ == "__main__":
    sys.exit(main())
