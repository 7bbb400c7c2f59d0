"""Makes a bundle of a trained and quantized model: golden input, provenance, pack."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from export.config import ModelConfig
from export.keys import SigningKey
from export.pack import write_bundle
from export.quantization.folder import CALIBRATION, FOLDER, FULL, read_forms
from export.quantization.run import settings_of
from export.states import reconstruction_states
from export.train import model_of

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
    """Writes ``out`` from the model, its forms and the pool in ``work``, signed; returns the bundle's SHA-256.

    Args:
        quality: the report of these forms; by default what `quantize` found.
        override: see `export.pack.write_bundle`.

    Raises:
        ConfigError: the model is not quantized, or was trained anew since.
        OtherInputs: the model is of another configuration or pool than those that the bundle would name.
    """
    trained = model_of(config, work)
    network = trained.network
    settings, folder = settings_of(network), work / FOLDER
    forms = read_forms(work, network, config_path)
    if quality is None:
        quality = (folder / "quality.json").read_bytes()
    session = OnnxRuntimeEngine().plan(forms[FULL], threads=1)
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
            "code_sha256": ", ".join(trained.about.code),
            "first_losses": list(trained.about.first_losses),
            "begun_with": trained.about.begun_with,
            "data_kind": "simulated acquisitions of magnitude volumes",
        },
        key=key,
        licence=config.licence,
        limits=config.limits,
        quality=quality,
        override=override,
    )
