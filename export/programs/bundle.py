"""Makes a bundle of an imported program and of the forms that `quantize` found for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge_runtime.bundle import Graphs
from edge_runtime.modalities.mri.given import Acquisition, given_as_tensor
from export.adapters.inputs import simulated_case
from export.adapters.program import SplitProgram
from export.adapters.storage import read_program, read_report
from export.config import ConfigError
from export.digest import made_by
from export.keys import SigningKey
from export.pack import Tensor, write_bundle
from export.programs.config import ProgramConfig
from export.programs.folder import CALIBRATION, FOLDER, FULL, read_forms
from export.programs.settings import settings_of


def make_program_bundle(
    config: ProgramConfig,
    config_path: Path,
    work: Path | None,
    out: Path,
    key: SigningKey,
    *,
    quality: bytes | None = None,
    override: str = "",
) -> str:
    """Writes ``out`` from the program that the configuration names, signed; returns the bundle's SHA-256.

    Args:
        work: folder with the forms and the report that `quantize` wrote; needed where the configuration says how to quantize.
        quality: the report of these forms; by default what `quantize` found.
        override: see `export.pack.write_bundle`.

    Raises:
        ConfigError: the program is not quantized, or is another one since.
        ImportRefused: the program is damaged or altered.
        ValueError: no device runs such a program.
        BundleError: see `export.pack.write_bundle`.
    """
    program = read_program(config.program)
    forms: dict[str, Graphs] = {FULL: program.files}
    calibration = None
    if config.quantize is not None:
        if work is None:
            raise ConfigError(
                f"{config_path}: --work DIR is missing, the folder that quantize wrote; without [quantize] only FP32 is packed"
            )
        forms = read_forms(work, program, config_path)
        calibration = json.loads((work / FOLDER / CALIBRATION).read_text(encoding="utf-8"))
        quality = (work / FOLDER / "quality.json").read_bytes() if quality is None else quality
    return write_bundle(
        out,
        name=program.name,
        version=program.version,
        settings=settings_of(program, config),
        forms=forms,
        golden_input=_golden_input(program, config.brightness),
        provenance={
            "configuration": config_path.read_text(encoding="utf-8"),
            "configuration_sha256": hashlib.sha256(config_path.read_bytes()).hexdigest(),
            "origin": asdict(program.origin),
            "compared_with_the_original": read_report(config.program),
            "made_by": made_by(__name__),
            **({} if calibration is None else {"calibration": calibration}),
        },
        key=key,
        licence=config.licence,
        limits=config.limits,
        quality=quality,
        override=override,
    )


def _golden_input(program: SplitProgram, brightness: float) -> Tensor:
    """A simulated slice as bright as the program expects it, as planes."""
    given, scale = simulated_case(program).given, np.float32(brightness)
    if not isinstance(given, Acquisition):
        return np.asarray(given * scale, np.float32)
    return given_as_tensor(Acquisition(given.hybrid * scale, given.mask, given.maps))
