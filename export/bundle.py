"""Makes a bundle of a trained and quantized model: golden input, provenance, pack."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from export.config import ConfigError, ModelConfig
from export.keys import SigningKey
from export.pack import write_bundle
from export.quantization.run import CALIBRATION, FOLDER, settings_of
from export.split import regulariser_onnx
from export.states import reconstruction_states
from export.train import load_model

GOLDEN_COLUMNS = 64

PACKED_FORMS = ("fp32", "int8")
"""FP16 waits for an engine that runs it."""


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
    """Writes ``out`` from the model, its forms and the pool in ``work``, signed; returns the bundle's SHA-256.

    Args:
        quality: the report of these forms; by default what `quantize` found.
        override: see `export.pack.write_bundle`.

    Raises:
        ConfigError: the model is not quantized, or was trained anew since.
    """
    trained = load_model(work / "model.pt")
    network = trained.network
    settings, folder = settings_of(network), work / FOLDER
    files = {precision: folder / f"{precision}.onnx" for precision in PACKED_FORMS}
    missing = [path for path in (*files.values(), folder / "quality.json", folder / CALIBRATION) if not path.exists()]
    if missing:
        raise ConfigError(f"{missing[0]}: there is none yet; run edge-export quantize {config_path} first")
    forms = {precision: path.read_bytes() for precision, path in files.items()}
    if forms["fp32"] != regulariser_onnx(network):
        raise ConfigError(f"{files['fp32']}: not of the model in {work}; run edge-export quantize {config_path} again")
    session = OnnxRuntimeEngine().plan(forms["fp32"], threads=1)
    seed = config.quantize.seed + 1
    golden = next(reconstruction_states(work / "pool", settings, session, 1, seed, columns=GOLDEN_COLUMNS))
    data = json.loads((work / "data.json").read_text(encoding="utf-8"))
    return write_bundle(
        out,
        name=config.name,
        version=config.version,
        settings=settings,
        forms=forms,
        golden_input=golden,
        provenance={
            "configuration": config_path.read_text(encoding="utf-8"),
            "configuration_sha256": hashlib.sha256(config_path.read_bytes()).hexdigest(),
            "training_data": data,
            "calibration": json.loads((folder / CALIBRATION).read_text(encoding="utf-8")),
            "code_sha256": ", ".join(trained.code),
            "first_losses": trained.first_losses,
            "data_kind": "simulated acquisitions of magnitude volumes",
        },
        key=key,
        licence=config.licence,
        limits=config.limits,
        quality=(folder / "quality.json").read_bytes() if quality is None else quality,
        override=override,
    )
