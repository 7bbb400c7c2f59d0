"""What the graphs of a program are fed while it reconstructs scans: what INT8 is calibrated on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.bundle import Graphs, ProgramSettings
from edge_runtime.engines import Session, Tensor
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.modalities.mri.programmed import ProgrammedReconstruction
from export.quantization.scans import ValidationScan, qualities_of


@dataclass
class _Recording:
    """A session that keeps what it is fed on disk."""

    session: Session
    folder: Path
    count: int = 0

    def run(self, batch: Tensor) -> Tensor:
        np.save(self.folder / f"{self.count:06d}.npy", batch)
        self.count += 1
        return self.session.run(batch)


def record_states(settings: ProgramSettings, graphs: Graphs, scans: Iterable[ValidationScan], folder: Path) -> None:
    """Reconstructs the scans once, one in memory at a time, and writes every graph's inputs into a folder of its name."""
    sessions: dict[str, _Recording] = {}
    for name, graph in sorted(graphs.items()):
        (folder / name).mkdir(parents=True)
        sessions[name] = _Recording(OnnxRuntimeEngine().plan(graph, threads=1), folder / name)
    learned = ProgrammedReconstruction(settings, sessions, 1, held_bytes=int)
    for scan in scans:
        qualities_of([scan], learned)


def recorded_states(folder: Path, graph: str) -> Iterator[Tensor]:
    """A graph's inputs ``(batch, channels, rows, columns)``, one in memory at a time."""
    for path in sorted((folder / graph).glob("*.npy")):
        yield np.load(path, allow_pickle=False)


def runs_of(settings: ProgramSettings, coils: int) -> Mapping[str, int]:
    """How often each graph runs for one image of so many coils."""
    from collections import Counter

    from edge_runtime.program.stages import Running, Sensitivities

    runs: Counter[str] = Counter()
    for stage in settings.program.stages:
        if isinstance(stage, Running):
            runs[stage.graph] += coils if isinstance(stage, Sensitivities) else 1
    return runs
