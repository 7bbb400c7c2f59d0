"""From a checkpoint and its mapping to a program on disk that was compared with the original."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.engines import choose_engine
from export.adapters.errors import ImportRefused, TraceFixed
from export.adapters.inputs import Case, default_recording, measured_case, random_cases
from export.adapters.mapping import read_mapping
from export.adapters.program import SplitProgram
from export.adapters.storage import write_program
from export.adapters.verify import CaseReport, Comparison, compare
from export.programs.packable import check_packable

if TYPE_CHECKING:
    from export.adapters.original import Imported  # needs torch

SOURCES = {
    "fastmri": "export.adapters.fastmri",
    "monai": "export.adapters.monai",
    "deepinv": "export.adapters.deepinv",
    "module": "export.adapters.module",
    "onnx": "export.adapters.onnx_file",
}
"""Where models come from, and what takes them over; loaded only when asked for."""


def import_model(
    source: str,
    checkpoint: Path,
    mapping: Path,
    out: Path,
    *,
    tolerance: float,
    recording: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[SplitProgram, Comparison]:
    """Splits a model, compares both sides and writes the program; nothing is written where they differ.

    Args:
        source: one of `SOURCES`.
        tolerance: largest difference of a stage, as `verify` defines it.
        recording: measured k-space to compare on; else the data folder's head.
        say: is told what was done.

    Raises:
        ConfigError: the mapping is wrong, or a package is not installed.
        ImportRefused: the model can't be taken, or its program departs from it.
        RecordingError: the recording can't be read.
    """
    if not 0 < tolerance < 1:
        raise ImportRefused(f"tolerance {tolerance:g}: a number between 0 and 1 is expected")
    if not checkpoint.is_file():
        raise ImportRefused(f"{checkpoint}: no such file")
    table = read_mapping(mapping)
    say(f"reading {checkpoint} and writing its graphs")
    adapter, notes = importlib.import_module(SOURCES[source]), list[str]()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", TraceFixed)
        imported: Imported = adapter.adapt(table, checkpoint)
    places: set[str] = set()
    for fixed in (one.message for one in warned if isinstance(one.message, TraceFixed)):
        if fixed.place not in places:  # every cascade of a model runs the same code
            notes.append(str(fixed))
            say(notes[-1])
        places.add(fixed.place)
    program = imported.program
    check_packable(program)
    say(f"split: {len(program.stages)} stages, {len(program.graphs)} graphs, {_megabytes(program):.1f} MB")
    engine = choose_engine(("onnxruntime",), "fp32")
    recording = recording or default_recording()
    if recording is None:
        notes.append(
            "no measured k-space found (EDGE_DATA, ../shared/data, --recording): compared on random input only"
        )
        say(notes[-1])
    reports = compare(program, engine, imported.original, _cases(program, recording), tolerance, _teller(say))
    comparison = Comparison(tolerance, engine.version(), reports, tuple(notes))
    for path in write_program(out, program, comparison):
        say(f"written: {path}")
    return program, comparison


def _cases(program: SplitProgram, recording: Path | None) -> Iterator[Case]:
    yield from random_cases(program)
    if recording is not None:
        yield measured_case(program, recording)


def _teller(say: Callable[[str], None]) -> Callable[[CaseReport], None]:
    def tell(report: CaseReport) -> None:
        worst = report.worst
        say(f"compared on {report.case}: at most {worst.difference:.1e} apart ({worst.stage})")

    return tell


def _megabytes(program: SplitProgram) -> float:
    return sum(len(content) for content in program.files.values()) / 1e6


def summary(program: SplitProgram, comparison: Comparison) -> dict[str, Any]:
    """What a machine is told of an import."""
    return {
        "program": program.name,
        "version": program.version,
        "source": program.origin.source,
        "model": program.origin.model,
        "stages": len(program.stages),
        "graphs": [graph.file for graph in program.graphs],
        "tolerance": comparison.tolerance,
        "notes": list(comparison.notes),
        "cases": [
            {"case": case.case, "worst_stage": case.worst.stage, "difference": case.worst.difference}
            for case in comparison.cases
        ],
    }
