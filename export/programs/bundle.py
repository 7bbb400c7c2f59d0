"""Makes a bundle of an imported program."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge_runtime.bundle import ProgramSettings
from edge_runtime.modalities.mri.given import Acquisition, given_as_tensor
from export.adapters.inputs import simulated_case
from export.adapters.program import SplitProgram
from export.adapters.storage import read_program, read_report
from export.keys import SigningKey
from export.pack import Tensor, write_bundle
from export.programs.config import ProgramConfig
from export.programs.memory import bytes_per_pixel


def settings_of(program: SplitProgram, config: ProgramConfig) -> ProgramSettings:
    """How a device runs the program.

    Raises:
        ValueError: no device does.
    """
    size = max(bytes_per_pixel(graph, program.files[graph.file]) for graph in program.graphs)
    return ProgramSettings(program.steps(), config.starts_from, config.brightness, size)


def make_program_bundle(
    config: ProgramConfig,
    config_path: Path,
    out: Path,
    key: SigningKey,
    *,
    quality: bytes | None = None,
    override: str = "",
) -> str:
    """Writes ``out`` from the program that the configuration names, signed; returns the bundle's SHA-256.

    Args:
        quality, override: see `export.pack.write_bundle`.

    Raises:
        ImportRefused: the program is damaged or altered.
        ValueError: no device runs such a program.
        BundleError: see `export.pack.write_bundle`.
    """
    program = read_program(config.program)
    return write_bundle(
        out,
        name=program.name,
        version=program.version,
        settings=settings_of(program, config),
        forms={"fp32": program.files},
        golden_input=_golden_input(program, config.brightness),
        provenance={
            "configuration": config_path.read_text(encoding="utf-8"),
            "configuration_sha256": hashlib.sha256(config_path.read_bytes()).hexdigest(),
            "origin": asdict(program.origin),
            "compared_with_the_original": read_report(config.program),
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
