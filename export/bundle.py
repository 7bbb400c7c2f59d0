"""Makes a bundle of a trained model: split, quantize, golden input, provenance, pack."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from export.config import ModelConfig
from export.digest import files_digest
from export.keys import SigningKey
from export.pack import write_bundle
from export.quantize import quantize_int8
from export.split import regulariser_onnx
from export.states import reconstruction_states
from export.train import load_model

GOLDEN_COLUMNS = 64


def make_bundle(
    config: ModelConfig,
    config_path: Path,
    work: Path,
    out: Path,
    key: SigningKey,
    *,
    quality: bytes | None = None,
    override: str = "",
) -> str:
    """Writes ``out`` from ``work/model.pt`` and the pool in ``work``, signed; returns the bundle's SHA-256.

    Args:
        quality, override: see `export.pack.write_bundle`.
    """
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantizer warns through the root logger
    trained = load_model(work / "model.pt")
    network = trained.network
    log_weights = tuple((float(a), float(b)) for a, b in network.log_weights.tolist())
    settings = UnrolledSettings(
        network.config.iterations, network.config.cg_steps, log_weights, network.regulariser.multiple
    )
    fp32 = regulariser_onnx(network)
    session = OnnxRuntimeEngine().plan(fp32, threads=1)
    pool, quantization = work / "pool", config.quantize
    states = reconstruction_states(pool, settings, session, quantization.calibration_scans, quantization.seed)
    int8 = quantize_int8(fp32, states, network.regulariser.level_names(quantization.float_levels))
    golden = next(reconstruction_states(pool, settings, session, 1, quantization.seed + 1, columns=GOLDEN_COLUMNS))
    data = json.loads((work / "data.json").read_text(encoding="utf-8"))
    return write_bundle(
        out,
        name=config.name,
        version=config.version,
        settings=settings,
        forms={"fp32": fp32, "int8": int8},
        golden_input=golden,
        provenance={
            "configuration": config_path.read_text(encoding="utf-8"),
            "configuration_sha256": hashlib.sha256(config_path.read_bytes()).hexdigest(),
            "training_data": data,
            "calibration": {
                "scans": quantization.calibration_scans,
                "seed": quantization.seed,
                "pool_sha256": files_digest(pool.glob("*.npy"), pool),
            },
            "code_sha256": ", ".join(trained.code),
            "first_losses": trained.first_losses,
            "data_kind": "simulated acquisitions of magnitude volumes",
        },
        key=key,
        licence=config.licence,
        limits=config.limits,
        quality=quality,
        override=override,
    )
