"""The folder that `edge-export quantize` writes for a program into a work folder: its forms, written and read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edge_runtime.bundle import Graphs
from export.adapters.program import SplitProgram
from export.config import ConfigError

FOLDER = "forms"
"""In the work folder: a folder a precision, ``quality.json``, `CALIBRATION` and the search's report."""

CALIBRATION = "calibration.json"
"""In that folder: of which program the forms are, what INT8 was calibrated on, and which parts it leaves in floating point."""

FULL = "fp32"
"""What other forms are held against: the program as it was imported."""

ALWAYS, WITHIN_BUDGET = "int8", "fp16"
"""The form that there always is, and the one that there is where it keeps the budget of quality."""


def write_form(folder: Path, precision: str, graphs: Graphs | None) -> None:
    """Writes a form in the place of an earlier run's; ``None`` leaves none."""
    place = folder / precision
    shutil.rmtree(place, ignore_errors=True)
    if graphs is not None:
        place.mkdir()
        for name, graph in graphs.items():
            (place / name).write_bytes(graph)


def read_forms(work: Path, program: SplitProgram, config_path: Path) -> dict[str, Graphs]:
    """The forms by precision.

    Args:
        config_path: for what is said where they are missing.

    Raises:
        ConfigError: there are none, or they are of another program.
    """
    folder = work / FOLDER
    mend = f"run edge-export quantize {config_path} --work {work} first"
    try:
        calibration = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
        if calibration["graphs"] != graph_digests(program):
            raise ConfigError(f"{folder}: forms of another program than {config_path} names; {mend}")
        forms: dict[str, Graphs] = {FULL: program.files}
        for precision in (ALWAYS, WITHIN_BUDGET):
            if precision == ALWAYS or (folder / precision).is_dir():
                forms[precision] = {name: (folder / precision / name).read_bytes() for name in sorted(program.files)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: no forms: {error}; {mend}") from error
    return forms


def graph_digests(program: SplitProgram) -> dict[str, str]:
    """SHA-256 of the graphs as they were imported, by name."""
    return {graph.file: graph.sha256 for graph in program.graphs}
