"""What calibrating INT8 takes in memory: the ranges of a graph over few scans and over ten times as many.

    python -m benchmarks.calibration POOL SCANS

is one measurement, in a process of its own: it prints the process's peak and the elements of the smallest and the largest state.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.footprint import MEGABYTE
from benchmarks.made_scans import write_training_pool
from benchmarks.records import Record
from benchmarks.server import ROOT
from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.hil.footprint import peak_bytes
from export.quantization.forms import write_prepared
from export.quantization.ranges import Tensor, write_ranges
from export.simulate.pool import draw_matrix
from export.states import reconstruction_states

ACQUISITIONS = 1
"""All scans are drawn of it, with masks and noise of their own. It is square, so that states have one size, and peaks differ by the
number of scans alone."""

SEED = 99
SCANS, TIMES_MORE = 6, 10
MOST_GROWTH = 1.1
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Calibration:
    """One process.

    Attributes:
        peak_mb: most resident memory.
        smallest, largest: elements of a state.
    """

    peak_mb: float
    smallest: int
    largest: int


def calibration(quick: bool) -> list[Record]:
    """Peak memory of gathering ranges over ten times as many scans, beside that of few."""
    few = 2 if quick else SCANS
    with tempfile.TemporaryDirectory() as folder:
        source = write_training_pool(Path(folder), ACQUISITIONS, _square_seed())
        of_few, of_many = (_in_a_process(Path(folder), scans) for scans in (few, TIMES_MORE * few))
    return [record(few, of_few, of_many, source)]


def _square_seed() -> int:
    """The first seed, from `SEED` on, whose acquisition is square: scans are drawn with either axis for phase encodes."""
    return next(seed for seed in itertools.count(SEED) if len(set(draw_matrix(np.random.default_rng([seed, 0])))) == 1)


def record(few: int, of_few: Calibration, of_many: Calibration, source: str) -> Record:
    """The figure; its target is the peak of few scans and a tenth.

    Raises:
        ValueError: states differ in size, so that the peaks say nothing of the number of scans.
    """
    sizes = {of_few.smallest, of_few.largest, of_many.smallest, of_many.largest}
    if len(sizes) > 1:
        raise ValueError(f"states of {sorted(sizes)} elements: peaks can be compared over states of one size only")
    return Record(
        "export.calibration_peak_mb",
        of_many.peak_mb,
        "MB",
        "lower",
        target=MOST_GROWTH * of_few.peak_mb,
        note=f"VmHWM of a process that gathers INT8 ranges over {TIMES_MORE * few} scans simulated of {source}; over {few} of them "
        f"{of_few.peak_mb:.0f} MB; every state has {of_many.largest} elements; 1 MB = 10^6 bytes",
    )


def _in_a_process(pool: Path, scans: int) -> Calibration:
    """Raises:
    RuntimeError: it failed; says what it printed.
    """
    command = [sys.executable, "-m", "benchmarks.calibration", str(pool), str(scans)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return Calibration(**json.loads(done.stdout.splitlines()[-1]))


def _calibrate(pool: Path, scans: int) -> Calibration:
    """As `edge-export quantize` does, in this process."""
    bundle = load_bundle(DEFAULT_BUNDLE)
    graph, sizes = bundle.forms["fp32"].onnx, set()

    def states() -> Iterator[Tensor]:
        session = OnnxRuntimeEngine().plan(graph, threads=1)
        for state in reconstruction_states(pool, bundle.unrolled, session, scans, SEED):
            sizes.add(state.size)
            yield state

    with tempfile.TemporaryDirectory() as folder:
        write_prepared(graph, Path(folder) / "prepared.onnx")
        write_ranges(Path(folder) / "prepared.onnx", states(), Path(folder) / "ranges.json")
    return Calibration(peak_bytes() / MEGABYTE, min(sizes), max(sizes))


if __name__ == "__main__":
    print(json.dumps(vars(_calibrate(Path(sys.argv[1]), int(sys.argv[2])))))
