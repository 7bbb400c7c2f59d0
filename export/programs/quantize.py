"""`edge-export quantize` of an imported program: its forms in a work folder, and how they were found."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.bundle import Graphs, ProgramSettings
from edge_runtime.bundle.quality import SCHEMA, form_digest
from edge_runtime.engines import Tensor
from edge_runtime.program.stages import Graph
from export.adapters.program import SplitProgram, digest
from export.adapters.storage import read_program
from export.config import ConfigError, QuantizeConfig
from export.digest import files_digest, made_by
from export.programs.config import ProgramConfig
from export.programs.folder import ALWAYS, CALIBRATION, FOLDER, FULL, WITHIN_BUDGET, graph_digests, write_form
from export.programs.parts import parts_of, with_names
from export.programs.search import Prepared, ProgramSearch
from export.programs.settings import settings_of
from export.programs.states import record_states, recorded_states, runs_of
from export.quantization.choice import budget_missed, budget_of
from export.quantization.forms import write_prepared
from export.quantization.ranges import write_ranges
from export.quantization.report import write_report
from export.quantization.scans import drawn_scans, validation_scans
from export.simulate.volumes import Volume, load_volumes, volume_files

TIMED_SIZE, TIMED_COILS = 256, 8
"""Rows and columns of the image that graphs are timed on where they take any, and coils whose sensitivities are made."""

PHANTOM_SHARE = 0.25
"""Of the scans, as for a model that was trained here (`export.quantization.run`)."""


def quantize_program(
    config: ProgramConfig, config_path: Path, work: Path, data: Path, report: Callable[[str], None]
) -> Path:
    """Writes the forms of a program and ``quality.json`` into ``work/forms``; returns that folder.

    Ranges come of what the program's graphs are fed while simulated scans of the volumes are reconstructed; losses are measured on
    other scans, drawn of the same volumes. An interrupted run goes on where it stopped.

    Args:
        data: folder of volumes that the model was not trained on.
        report: told in words how far it is.

    Raises:
        ConfigError: there is no table ``quantize``, no limit of what INT8 may lose, a graph is too old, or none has a convolution.
        ImportRefused: the program is damaged or altered.
        BudgetMissed: no INT8 form keeps the limits; what was measured is in the folder all the same.
    """
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantizer warns through the root logger
    budget, quantize = budget_of(config.limits), config.quantize
    if quantize is None:
        raise ConfigError(f"{config_path}: [quantize] is missing: calibration_scans, validation_scans and seed")
    program, volumes = read_program(config.program), load_volumes(data)
    settings, folder = settings_of(program, config), work / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    graphs = _prepared(program, settings, quantize, volumes, folder, report)
    scans = validation_scans(volumes, quantize.validation_scans, quantize.seed + 2, PHANTOM_SHARE)
    search = ProgramSearch(settings, graphs, scans, folder / "measured.jsonl", report)
    result = search.run(budget)
    write_report(result, budget, folder)
    chosen = result.chosen
    if chosen is None:
        raise budget_missed(result.candidates, budget)
    forms: dict[str, Graphs] = {FULL: program.files, ALWAYS: search.form(chosen.kept)}
    figures = {ALWAYS: chosen.lost}
    if budget.admits(result.fp16.lost):
        forms[WITHIN_BUDGET], figures[WITHIN_BUDGET] = search.half(), result.fp16.lost
    else:
        report(f"FP16 loses {result.fp16.lost.psnr_db:.3f} dB and {result.fp16.lost.ssim:.4f} SSIM: it is left out")
    for precision in (ALWAYS, WITHIN_BUDGET):
        write_form(folder, precision, forms.get(precision))
    engines = "; ".join(one.engine for one in chosen.engines)
    quality = {
        "schema": SCHEMA,
        "forms": {name: form_digest({file: digest(one) for file, one in form.items()}) for name, form in forms.items()},
        "figures": {f"{name}_loss_db": lost.psnr_db for name, lost in figures.items()}
        | {f"{name}_loss_ssim": lost.ssim for name, lost in figures.items()},
        "scans": f"{len(scans)} simulated validation scans on {engines}, the worst of them: {chosen.lost.worst_scan}",
    }
    calibration = {
        "graphs": graph_digests(program),
        "scans": quantize.calibration_scans,
        "seed": quantize.seed,
        "volumes": len(volumes),
        "volumes_sha256": files_digest(volume_files(data), data),  # their names may be people's, and are not told
        "float_parts": list(chosen.kept),
        "made_by": made_by(__name__),
    }
    for name, document in (("quality.json", quality), (CALIBRATION, calibration)):
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return folder


def _prepared(
    program: SplitProgram,
    settings: ProgramSettings,
    quantize: QuantizeConfig,
    volumes: list[Volume],
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, Prepared]:
    """Every graph made ready, with its ranges, which are gathered once for all that they hang on."""
    runs, found = runs_of(settings, TIMED_COILS), {}
    for graph in program.graphs:
        prepared, ranges = (folder / f"{graph.file}.{kind}" for kind in ("prepared", "ranges"))
        write_prepared(with_names(graph.file, program.files[graph.file]), prepared)
        parts = parts_of(graph.file, prepared)
        found[graph.file] = Prepared(
            program.files[graph.file], prepared, ranges, parts, runs[graph.file], _timed_image(graph)
        )
    if not any(one.parts for one in found.values()):
        raise ConfigError(
            f"{program.name}: no graph of it has a convolution: nothing in it can be quantized; leave [quantize] out and pack FP32"
        )
    mark, made_of = folder / "ranges.sha256", _identity(settings, quantize, volumes)
    if mark.exists() and mark.read_text(encoding="utf-8") == made_of:
        return found
    report(f"ranges over {quantize.calibration_scans} scans")
    mark.unlink(missing_ok=True)
    states = folder / "states"
    shutil.rmtree(states, ignore_errors=True)  # of an interrupted run
    scans = itertools.islice(drawn_scans(volumes, quantize.seed, PHANTOM_SHARE), quantize.calibration_scans)
    record_states(settings, program.files, scans, states)
    for number, graph in enumerate(program.graphs, start=1):
        one = found[graph.file]
        if one.parts:
            write_ranges(one.prepared, recorded_states(states, graph.file), one.ranges, graph.input)
        else:  # nothing in it that is quantized
            one.ranges.write_text("", encoding="utf-8")
        report(f"ranges of {number} of {len(program.graphs)} graphs")
    shutil.rmtree(states)
    mark.write_text(made_of, encoding="utf-8")
    return found


def _timed_image(graph: Graph) -> Tensor:
    """An input of the size that counts, or the only one that the graph takes."""
    least = max(TIMED_SIZE, graph.least)
    rows, columns = (fixed or -(-least // graph.multiple) * graph.multiple for fixed in (graph.rows, graph.columns))
    rng = np.random.default_rng(0)
    return rng.standard_normal((graph.batch or 1, graph.input_channels, rows, columns)).astype(np.float32)


def _identity(settings: ProgramSettings, quantize: QuantizeConfig, volumes: list[Volume]) -> str:
    """Of all that ranges hang on."""
    whole = hashlib.sha256(repr((settings, quantize, sorted(made_by(__name__).items()))).encode())
    for volume in volumes:
        whole.update(volume.name.encode() + np.ascontiguousarray(volume.voxels).tobytes())
    return whole.hexdigest()
