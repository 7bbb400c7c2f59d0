"""Which engine runs a form of a bundle on this device: the best that is qualified for it and reproduces the golden outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edge_runtime.bundle import Bundle, Form, UnrolledSettings
from edge_runtime.engines import CompiledSession, Engine, Purpose, rank_engines
from edge_runtime.errors import DeviceError, EngineError, GoldenMismatch
from edge_runtime.modalities.mri.families import made_ready
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.profile import Compilation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admitted:
    """An engine that may run a form.

    Attributes:
        learned: the model, ready on it.
        difference: of the golden outputs, relative.
        instead_of: names of engines that the profile puts before it and that can't be used or failed here.
    """

    engine: Engine
    learned: Learned
    difference: float
    instead_of: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Engine and version, as images tell it."""
        return self.engine.version() + (f" instead of {', '.join(self.instead_of)}" if self.instead_of else "")


def purpose_of(bundle: Bundle, form: Form, compilation: Compilation) -> Purpose | None:
    """For what engines compile a form: sizes from the smallest that the graph takes, whole multiples of it.

    The golden input is always among them, since no engine runs that does not reproduce it; an accelerator that takes one size only
    is compiled for that of the golden input. ``None`` for programs, whose graphs take what their stages give them.
    """
    if not isinstance(bundle.settings, UnrolledSettings):
        return None
    step = bundle.settings.multiple
    rows, columns = (int(size) for size in bundle.golden_input.shape[2:])
    if compilation.dla_core is not None:
        least = usual = most = (rows, columns)
    else:
        largest, common = (max(step, size // step * step) for size in (compilation.largest, compilation.usual))
        least, usual, most = (step, step), (common, common), (max(largest, rows), max(largest, columns))
    return Purpose(
        bundle=bundle.digest,
        precision=form.precision,
        least=least,
        usual=usual,
        most=most,
        cache=compilation.cache,
        workspace_mb=compilation.workspace_mb,
        dla_core=compilation.dla_core,
    )


def admit(bundle: Bundle, form: Form, engines: tuple[str, ...], threads: int, compilation: Compilation) -> Admitted:
    """Plans a form on the best of the allowed engines and holds it to the golden outputs.

    One that fails is named in the log, quarantined where it was compiled here, and the next that is allowed takes its place: never
    in silence, since images name the engine that made them and the one that should have.

    Args:
        engines: names of those that are allowed, as in the hardware profile.

    Raises:
        GoldenMismatch, EngineError, DeviceError: of the best engine, where none of the others is fit either.
    """
    ranking = rank_engines(engines, form.precision)
    for name, reason in ranking.passed_over.items():
        log.warning("%s is passed over for %s of bundle %s: %s", name, form.precision, bundle.name, reason)
    failures: list[tuple[str, Exception]] = []
    for engine in ranking.engines:
        try:
            learned, difference = _checked(bundle, form, engine, threads, compilation)
        except (GoldenMismatch, EngineError, DeviceError) as error:
            left = [one.name for one in ranking.engines[len(failures) + 1 :]]
            following = f"next comes {left[0]}" if left else "no other engine is allowed and installed"
            log.error(
                "%s fails for %s of bundle %s: %s; %s", engine.name, form.precision, bundle.name, error, following
            )
            failures.append((engine.name, error))
        else:
            before = set(engines[: engines.index(engine.name)]) & set(ranking.passed_over)
            failed = {name for name, _ in failures}
            instead_of = tuple(name for name in engines if name in before | failed)
            return Admitted(engine, learned, difference, instead_of)
    first = failures[0][1]
    if len(failures) == 1:
        raise first
    others = "; ".join(f"{name}: {error}" for name, error in failures[1:])
    raise type(first)(f"{first}; nor is another engine fit: {others}") from first


def _checked(
    bundle: Bundle, form: Form, engine: Engine, threads: int, compilation: Compilation
) -> tuple[Learned, float]:
    tolerance = form.tolerance(engine).relative_error  # before minutes of compilation
    purpose = purpose_of(bundle, form, compilation)
    learned = made_ready(bundle.settings, form.graphs, engine, threads, purpose, tolerance)
    try:
        return learned, bundle.check_golden(learned.golden, form, engine)
    except (GoldenMismatch, EngineError) as error:
        if isinstance(learned, LearnedReconstruction) and isinstance(learned.regulariser, CompiledSession):
            learned.regulariser.quarantine(str(error))
        raise
