"""The configuration of an imported program: which one, what it expects of a scan, how it is quantized, and its limits.

A TOML file that `quantize`, `qualify` and `pack` take in the place of a model's own configuration (docs/import.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edge_runtime.bundle.manifest import STARTS, StartsFrom
from edge_runtime.bundle.quality import parse_limits
from export.adapters.mapping import Table, read_mapping
from export.config import SEEDS, ConfigError, QuantizeConfig


@dataclass(frozen=True)
class ProgramConfig:
    """The whole file.

    Attributes:
        program: folder or file that `edge-export import` wrote; in the file relative to it.
        starts_from, brightness: see `edge_runtime.bundle.ProgramSettings`.
        quantize: ``None`` where only FP32 is packed.
        licence: SPDX identifier.
        limits: bounds of figures of the quality report.
    """

    program: Path
    starts_from: StartsFrom
    brightness: float
    quantize: QuantizeConfig | None
    licence: str
    limits: Mapping[str, Mapping[str, float]]


def is_program_config(path: Path) -> bool:
    """Whether a configuration is one of a program; what can't be read is none."""
    try:
        return read_mapping(path).has("program")
    except ConfigError:
        return False


def load_program_config(path: Path) -> ProgramConfig:
    """Reads and checks a configuration.

    Raises:
        ConfigError: names the file, the key, its value and what is expected.
    """
    table = read_mapping(path)
    program = path.parent / table.text("program")
    licence = table.text("licence", "NOASSERTION")
    given = table.table("input", needed=False)
    starts_from = given.text("starts_from", "classical", among=STARTS)
    brightness = given.number("brightness", 1e-6, 1e6, 1.0)
    given.done()
    quantize = _quantize(table.table("quantize")) if table.has("quantize") else None
    limits = table.table("limits", needed=False).rest()
    table.done()
    try:
        parse_limits(limits)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return ProgramConfig(program, cast(StartsFrom, starts_from), brightness, quantize, licence, limits)


def _quantize(table: Table) -> QuantizeConfig:
    config = QuantizeConfig(
        table.whole("calibration_scans", 1, 100_000),
        table.whole("validation_scans", 1, 10_000),
        table.whole("seed", *SEEDS),
    )
    table.done()
    return config
