"""`edge-export quantize`: every form of a trained model in its work folder, and how the INT8 one was found."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.bundle.quality import SCHEMA
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from export.config import ModelConfig
from export.digest import made_by
from export.families.unrolled import UnrolledNetwork
from export.quantization.calibration import CalibrationData, gathered_ranges
from export.quantization.choice import budget_missed, budget_of
from export.quantization.finetune import FineTuning, write_finetuned
from export.quantization.folder import CALIBRATION, FOLDER, FULL, form_file
from export.quantization.forms import fp16_form, write_prepared
from export.quantization.report import write_report
from export.quantization.scans import Loss, validation_scans
from export.quantization.search import Search
from export.recordings import open_fully_sampled
from export.simulate.volumes import Volume
from export.split import regulariser_onnx
from export.train import model_of

TUNED = "finetuned"
"""Folder in that folder: the fine-tuned graph, and what was measured of its forms."""

TIMED_SIZE = 256
"""Rows and columns of the image that layers and forms are timed on."""

PHANTOM_SHARE = 0.25
"""Of the validation scans; sharp edges without noise of their own are what INT8 renders worst."""


def settings_of(network: UnrolledNetwork) -> UnrolledSettings:
    """How the device runs the network around its regulariser."""
    pairs, slopes = network.log_weights.tolist(), network.share_slopes.tolist()
    laws = tuple((float(at), float(noise), float(share)) for (at, noise), share in zip(pairs, slopes, strict=True))
    return UnrolledSettings(network.config.iterations, network.config.cg_steps, laws, network.regulariser.multiple)


def quantize_model(
    config: ModelConfig,
    work: Path,
    volumes: list[Volume],
    report: Callable[[str], None],
    *,
    recordings: Sequence[Path] = (),
    finetune_steps: int = 0,
) -> Path:
    """Writes FP32, INT8 and, where it keeps the limits too, FP16 graphs of the folder's model and ``quality.json`` into
    ``work/forms``; returns that folder.

    Ranges come of the pool in ``work``; the search's budget is the configuration's limits of what INT8 may lose. An interrupted
    run goes on with the search where it stopped.

    Args:
        volumes: unseen ones, from which validation scans are simulated.
        report: told in words how far it is.
        recordings: fully sampled raw scans, whose states INT8 is calibrated on beside those of simulated ones.
        finetune_steps: where INT8 in all layers misses the budget, weights fine-tuned for so many steps are searched, too.

    Raises:
        ConfigError: the configuration limits nothing that INT8 may lose.
        RecordingError: a recording can't be read, or is not fully sampled.
        BudgetMissed: no INT8 form keeps the limits; what was measured is in the folder all the same.
    """
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantizer warns through the root logger
    budget, quantize = budget_of(config.limits), config.quantize
    network = model_of(config, work).network
    settings, fp32 = settings_of(network), regulariser_onnx(network)
    folder = work / FOLDER
    folder.mkdir(exist_ok=True)
    prepared = folder / "prepared.onnx"
    write_prepared(fp32, prepared)
    scans_recorded = tuple(open_fully_sampled(path) for path in recordings)
    data = CalibrationData(work / "pool", quantize.calibration_scans, quantize.seed, scans_recorded)
    session = OnnxRuntimeEngine().plan(fp32, threads=1)
    ranges, calibration = gathered_ranges(prepared, data, settings, session, folder, report)
    scans = validation_scans(volumes, quantize.validation_scans, quantize.seed + 2, PHANTOM_SHARE)
    rng = np.random.default_rng(quantize.seed)
    image = 0.1 * rng.standard_normal((1, 6, TIMED_SIZE, TIMED_SIZE)).astype(np.float32)
    symmetric = quantize.symmetric_activations
    measured = folder / "measured.jsonl"
    search = Search(fp32, prepared, ranges, settings, scans, image, measured, report, symmetric=symmetric)
    searches, result = {0: search}, search.run(budget)
    if finetune_steps and not result.candidates[0].admitted:
        report("INT8 in all layers misses the budget: fine-tuning")
        tuning = FineTuning(work / "pool", config.train, finetune_steps, quantize.seed + 3)
        tuned = folder / TUNED
        tuned.mkdir(exist_ok=True)
        write_finetuned(network, prepared, search.form(()), tuning, tuned / "graph.onnx", report)
        write_prepared((tuned / "graph.onnx").read_bytes(), tuned / "prepared.onnx")
        searches[finetune_steps] = Search(
            fp32,
            tuned / "prepared.onnx",
            ranges,
            settings,
            scans,
            image,
            tuned / "measured.jsonl",
            report,
            finetune_steps,
            symmetric=symmetric,
        )
        result = result.beside(searches[finetune_steps].run(budget), budget)
    write_report(result, budget, folder)
    chosen = result.chosen
    if chosen is None:
        raise budget_missed(result.candidates, budget)
    forms = {FULL: fp32, "int8": searches[chosen.finetuned_steps].form(chosen.kept)}
    if budget.admits(result.fp16.lost):
        forms["fp16"] = fp16_form(fp32)
    else:
        report(f"FP16 loses {result.fp16.lost.psnr_db:.3f} dB and {result.fp16.lost.ssim:.4f} SSIM: it is left out")
        form_file(folder, "fp16").unlink(missing_ok=True)  # of an earlier run
    for precision, graph in forms.items():
        form_file(folder, precision).write_bytes(graph)
    engines = "; ".join(one.engine for one in chosen.engines)
    quality = _quality(forms, {"int8": chosen.lost, "fp16": result.fp16.lost}, len(scans), engines)
    _write_json(folder / "quality.json", quality | {"float_layers": list(chosen.kept)})
    calibration |= {"float_layers": list(chosen.kept), "finetuned_steps": chosen.finetuned_steps}
    calibration["made_by"] = made_by(__name__)
    _write_json(folder / CALIBRATION, calibration)
    return folder


def _quality(forms: Mapping[str, bytes], lost: Mapping[str, Loss], scans: int, engines: str) -> dict[str, object]:
    """The quality report of the forms, with what each loses."""
    figures: dict[str, float] = {}
    for precision, one in lost.items():
        figures |= {f"{precision}_loss_db": one.psnr_db, f"{precision}_loss_ssim": one.ssim}
    return {
        "schema": SCHEMA,
        "forms": {precision: hashlib.sha256(graph).hexdigest() for precision, graph in forms.items()},
        "figures": figures,
        "scans": f"{scans} simulated validation scans on {engines}, the worst of them: {lost['int8'].worst_scan}",
    }


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
