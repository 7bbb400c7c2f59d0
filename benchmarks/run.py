"""Runs the benchmarks, writes their records and prints the table.

    python -m benchmarks.run [--only NAME-PREFIX] [--out build/bench.json] [--quick]

Exit codes: 0 all were measured, whether or not they reach their targets; 1 a benchmark broke; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

from benchmarks.records import Record, environment, merge, read, table, write

BENCHMARKS = {
    "start": "benchmarks.footprint:start",
    "memory": "benchmarks.footprint:memory",
    "memory.scan": "benchmarks.footprint:memory_of_a_scan",
    "load": "benchmarks.load:load",
    "kernels": "benchmarks.kernels:kernels",
    "kernels.sense_cg_ms": "benchmarks.sense_cg:sense_cg",
    "ingest": "benchmarks.ingest:ingest",
    "ingest.journal_share_of_disk": "benchmarks.journal:journal_share_of_disk",
    "start.recover_ms": "benchmarks.journal:recovery",
    "latency": "benchmarks.latency:latency",
    "warm_start": "benchmarks.warm_start:warm_start",
    "engine": "benchmarks.engines:engines",
    "export.calibration_peak_mb": "benchmarks.calibration:calibration",
    "delivery": "benchmarks.delivery:delivery",
    "delivery.build_100_s": "benchmarks.dicom_build:dicom_build",
    "install": "benchmarks.footprint:install",
    "quality": "benchmarks.quality:quality",
}
"""By the prefix of its records: a function that takes ``quick`` and returns them. Modules are imported only when they are run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen benchmarks and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Runs the benchmarks.")
    parser.add_argument(
        "--only", default="", metavar="NAME-PREFIX", help="only benchmarks whose records' names begin so"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), metavar="FILE", help="%(default)s")
    parser.add_argument("--quick", action="store_true", help="few short runs: shows that it works, not how fast it is")
    options = parser.parse_args(arguments)
    chosen = [name for name in BENCHMARKS if name.startswith(options.only) or options.only.startswith(f"{name}.")]
    if not chosen:
        parser.error(f"no benchmark begins with {options.only!r}; known are {', '.join(BENCHMARKS)}")
    try:
        kept = read(options.out)
    except ValueError as error:
        parser.error(str(error))
    remark = f"measured here: {', '.join(chosen)}" + ("; quick" if options.quick else "")
    taken = [environment(remark)]
    broken = []
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            taken += [_marked(record, options.quick) for record in _load(BENCHMARKS[name])(options.quick)]
        except Exception:  # whatever it is, the others shall run
            traceback.print_exc()
            broken.append(name)
        write(options.out, merge(kept, taken))
    print(table(taken))
    print(f"\n{taken[0].note}")
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _load(place: str) -> Callable[[bool], Iterable[Record]]:
    module, _, function = place.partition(":")
    return cast("Callable[[bool], Iterable[Record]]", getattr(import_module(module), function))


def _marked(record: Record, quick: bool) -> Record:
    return replace(record, note=f"QUICK RUN, not a figure. {record.note}") if quick else record


if __name__ == "__main__":
    sys.exit(main())
