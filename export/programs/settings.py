"""How a device runs an imported program, from the program and its configuration."""

from __future__ import annotations

from edge_runtime.bundle import ProgramSettings
from export.adapters.program import SplitProgram
from export.programs.config import ProgramConfig
from export.programs.memory import live_bytes_per_pixel


def settings_of(program: SplitProgram, config: ProgramConfig) -> ProgramSettings:
    """The settings that a bundle of the program carries.

    Raises:
        ValueError: no device runs such a program.
    """
    size = max(live_bytes_per_pixel(graph, program.files[graph.file]) for graph in program.graphs)
    return ProgramSettings(program.steps(), config.starts_from, config.brightness, size)
