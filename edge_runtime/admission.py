"""Which engine runs a form of a bundle on this device: the best that is qualified for it and reproduces the golden outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.bundle import Bundle, Form, UnrolledSettings
from edge_runtime.engines import CompiledSession, Engine, Purpose, Session, rank_engines
from edge_runtime.engines.quarantine import Case, Kind, Quarantine
from edge_runtime.engines.watch import LONGEST_PLAN_S, Shape, Watch, WatchedSession, within
from edge_runtime.errors import (
    CompilationFailed,
    DeviceError,
    EngineDeviceLost,
    EngineError,
    EngineFileRefused,
    EngineHung,
    EngineMemory,
    EngineQuarantined,
    GoldenMismatch,
    PluginMissing,
)
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
        case: what a mark would be about, if it failed.
        dla_core: of the accelerator that it was compiled for, with the GPU for layers that this lacks; ``None`` for the GPU alone.
        instead_of: names of engines that the profile puts before it and that can't be used or failed here.
    """

    engine: Engine
    learned: Learned
    difference: float
    case: Case
    dla_core: int | None = None
    instead_of: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Engine and version, as images tell it."""
        where = "" if self.dla_core is None else f" on DLA core {self.dla_core} and GPU"
        return self.engine.version() + where + (f" instead of {', '.join(self.instead_of)}" if self.instead_of else "")


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


def admit(
    bundle: Bundle,
    form: Form,
    engines: tuple[str, ...],
    threads: int,
    compilation: Compilation,
    watch: Watch = Watch(),
    out_of_service: frozenset[str] = frozenset(),
) -> Admitted:
    """Plans a form on the best of the allowed engines and holds it to the golden outputs.

    One that fails is named in the log and quarantined, and the next that is allowed takes its place: never in silence, since images
    name the engine that made them and the one that should have.

    Args:
        engines: names of those that are allowed, as in the hardware profile.
        out_of_service: names of those of them that have failed since the process began.

    Raises:
        GoldenMismatch, EngineError, DeviceError: of the best engine, where none of the others is fit either.
    """
    ranking = rank_engines(engines, form.precision)
    for name, reason in ranking.passed_over.items():
        log.warning("%s is passed over for %s of bundle %s: %s", name, form.precision, bundle.name, reason)
    failures: list[tuple[str, Exception]] = []
    for engine in ranking.engines:
        try:
            if engine.name in out_of_service:
                raise EngineError("it has failed on scans and is out of service")
            learned, difference, case = _checked(bundle, form, engine, threads, compilation, watch)
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
            dla_core = compilation.dla_core if engine.takes_dla else None
            return Admitted(engine, learned, difference, case, dla_core, instead_of)
    first = failures[0][1]
    if len(failures) == 1:
        raise first
    others = "; ".join(f"{name}: {error}" for name, error in failures[1:])
    raise type(first)(f"{first}; nor is another engine fit: {others}") from first


def _checked(
    bundle: Bundle, form: Form, engine: Engine, threads: int, compilation: Compilation, watch: Watch
) -> tuple[Learned, float, Case]:
    tolerance = form.tolerance(engine).relative_error  # before minutes of compilation
    purpose, quarantine = purpose_of(bundle, form, compilation), Quarantine.at(compilation.cache)
    case = Case(engine.name, engine.version(), engine.conditions(purpose), bundle.digest, form.precision)
    mark = quarantine.failure(case)
    if mark is not None and mark.quarantined:
        raise EngineQuarantined(
            f"{engine.version()}: {form.precision} has failed here before and is quarantined ({mark}); to try it again: "
            f"edge-runtime engines --release {engine.name}, or remove {quarantine.file(case)}"
        )
    shape_of = _shape_of(bundle, form)
    learned: Learned | None = None

    def watched(session: Session) -> Session:
        return WatchedSession(session, case, watch, shape_of)

    def plan() -> Learned:
        return made_ready(bundle.settings, form.graphs, engine, threads, purpose, tolerance, watched)

    try:
        with watch.loading(case):
            learned = within(LONGEST_PLAN_S, plan, engine.name)
            return learned, bundle.check_golden(learned.golden, form, engine), case
    except (GoldenMismatch, EngineError) as error:
        if (kind := blamed(error, planned=learned is not None)) is not None:
            quarantine.note(case, kind, str(error))
            if learned is not None:
                _discard(learned)
        raise


def blamed(error: Exception, *, planned: bool) -> Kind | None:
    """How an engine has failed that was made ready; ``None`` where that is not its own fault, or shows at each start at once."""
    if isinstance(error, (DeviceError, EngineDeviceLost, EngineMemory, PluginMissing)):
        return None
    if isinstance(error, EngineHung):
        return Kind.HUNG
    if planned:
        return Kind.GOLDEN
    return Kind.COMPILATION if isinstance(error, (CompilationFailed, EngineFileRefused)) else None


def _discard(learned: Learned) -> None:
    """What was compiled of a model that failed."""
    if isinstance(learned, LearnedReconstruction) and isinstance(learned.regulariser, WatchedSession):
        session = learned.regulariser.watched
        if isinstance(session, CompiledSession):
            session.discard()


def _shape_of(bundle: Bundle, form: Form) -> Callable[[Shape], Shape] | None:
    """Shape of the output of an input's: a regulariser keeps rows and columns; a program's interpreter sees to its own graphs."""
    if not isinstance(bundle.settings, UnrolledSettings):
        return None
    channels = int(form.golden_output.shape[1])
    return lambda shape: (shape[0], channels, *shape[2:])
