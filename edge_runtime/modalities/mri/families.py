"""From a bundle's settings and graphs to what reconstructs with them: the one place that knows every family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from edge_runtime.bundle.manifest import REGULARISER, Settings, UnrolledSettings
from edge_runtime.engines import Engine, Purpose, Session
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.programmed import ProgrammedReconstruction
from edge_runtime.modalities.mri.proposal import Learned


def made_ready(
    settings: Settings,
    graphs: Mapping[str, bytes],
    engine: Engine,
    threads: int,
    purpose: Purpose | None = None,
    tolerance: float = 0.0,
    watched: Callable[[Session], Session] = lambda session: session,
) -> Learned:
    """A model planned on an engine.

    Args:
        graphs: of one form, by name.
        purpose: of its one graph, for engines that compile.
        tolerance: by which its golden outputs may differ on that engine.
        watched: what is put around every session.

    Raises:
        EngineError: a graph can't be planned.
        DeviceError: the GPU can't be used.
    """
    sessions = {name: watched(engine.plan(graph, threads, purpose)) for name, graph in sorted(graphs.items())}
    if isinstance(settings, UnrolledSettings):
        return LearnedReconstruction(settings, sessions[REGULARISER], tolerance)
    held = partial(engine.held_bytes, graph_bytes=[len(graph) for graph in graphs.values()])
    return ProgrammedReconstruction(settings, sessions, threads, held)
