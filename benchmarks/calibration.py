"""What calibrating INT8 takes in memory: the ranges of a graph over few scans of as many acquisitions, and over ten times as many.

    python -m benchmarks.calibration POOL SCANS

is one measurement, in a process of its own: it prints the process's peak and the elements of the smallest and the largest state.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.footprint import MEGABYTE
from benchmarks.made_scans import keep_first, write_square_pool
from benchmarks.records import Record
from benchmarks.server import ROOT
from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.hil.footprint import peak_bytes
from export.quantization.forms import write_prepared
from export.quantization.ranges import Tensor, write_ranges
from export.simulate.pool import Pool
from export.states import reconstruction_states

MATRIX = 192
"""Lines and samples of every acquisition: square, so that states have one size and peaks differ by the number of scans and
acquisitions alone, and so large that whoever held all acquisitions would miss the target. The few have most coils: what one scan
takes hangs on these."""

SEED = 99
SCANS, QUICK_SCANS, TIMES_MORE = 6, 3, 10
MOST_GROWTH = 1.1
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Calibration:
    """One process.

    Attributes:
        peak_mb: most resident memory.
        pool_mb: of all acquisitions that scans were drawn of.
        smallest, largest: elements of a state.
    """

    peak_mb: float
    pool_mb: float
    smallest: int
    largest: int


def calibration(quick: bool) -> list[Record]:
    """Peak memory of gathering ranges over ten times as many scans, beside that of few."""
    few = QUICK_SCANS if quick else SCANS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_square_pool(folder, TIMES_MORE * few, MATRIX, SEED)
        of_many = _in_a_process(folder, TIMES_MORE * few)
        keep_first(folder, few)
        of_few = _in_a_process(folder, few)
    return [record(few, of_few, of_many, source)]


def record(few: int, of_few: Calibration, of_many: Calibration, source: str) -> Record:
    """The figure; its target is the peak of few scans and a tenth.

    Raises:
        ValueError: states differ in size, so that the peaks say nothing of the number of scans; or the acquisitions are so few that
            all of them could be held within the target.
    """
    sizes = {of_few.smallest, of_few.largest, of_many.smallest, of_many.largest}
    if len(sizes) > 1:
        raise ValueError(f"states of {sorted(sizes)} elements: peaks can be compared over states of one size only")
    grown_mb, allowed_mb = of_many.pool_mb - of_few.pool_mb, (MOST_GROWTH - 1) * of_few.peak_mb
    if grown_mb <= allowed_mb:
        raise ValueError(
            f"acquisitions of {of_many.pool_mb:.1f} MB, {grown_mb:.1f} more than of {few} scans: a peak that may grow by "
            f"{allowed_mb:.1f} MB does not show whether all are held; take more scans"
        )
    return Record(
        "export.calibration_peak_mb",
        of_many.peak_mb,
        "MB",
        "lower",
        target=MOST_GROWTH * of_few.peak_mb,
        note=f"VmHWM of a process that gathers INT8 ranges over {TIMES_MORE * few} scans simulated of {source}; over {few} of them "
        f"{of_few.peak_mb:.0f} MB; as many acquisitions as scans, of {of_many.pool_mb:.0f} and {of_few.pool_mb:.0f} MB; "
        f"every state has {of_many.largest} elements; 1 MB = 10^6 bytes",
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
    pool_bytes = sum(path.stat().st_size for path in Pool(pool).files)
    return Calibration(peak_bytes() / MEGABYTE, pool_bytes / MEGABYTE, min(sizes), max(sizes))


if __name__ == "__main__":
    print(json.dumps(vars(_calibrate(Path(sys.argv[1]), int(sys.argv[2])))))
