"""What all sessions of one process share: profile, model, threads and the place where images go."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from edge_runtime.admission import admit
from edge_runtime.ahead import Took
from edge_runtime.bundle import Bundle, load_bundle, load_trust_store
from edge_runtime.counters import Counters
from edge_runtime.deadline import Deadlines, Scheduler, Thermal
from edge_runtime.deadline.policy import CLASSICAL
from edge_runtime.engines.crumbs import Crumbs
from edge_runtime.engines.watch import Watch
from edge_runtime.errors import BundleError, DeviceError, EngineQuarantined
from edge_runtime.kernels import Plans, Where, Workers
from edge_runtime.lineup import Lineup, Ready, less_precise
from edge_runtime.memory import MemoryBudget
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.pool import ReconstructionPool
from edge_runtime.profile import Profile
from edge_runtime.scan import Provenance
from edge_runtime.service.heart import Heart
from edge_runtime.service.observers import Observers

if TYPE_CHECKING:
    from edge_runtime.delivery.handover import Handover
    from edge_runtime.journal.folder import Journal

log = logging.getLogger(__name__)

DEFAULT_PREVIEWS = (0.25, 0.5, 0.75)
"""Shares of a slice's expected readouts at which a preview is made, where nobody says otherwise."""


def runtime_version() -> str:
    """The installed version, or ``0+source`` in a bare checkout."""
    try:
        return version("edge-runtime")
    except PackageNotFoundError:
        return "0+source"


@dataclass(frozen=True)
class Model:
    """A bundle made ready on an engine.

    Attributes:
        bundle: without its forms.
        reconstruction, precision, engine: of the form that runs where there is time, when it was made ready.
        lineup: which form and engine runs now.
    """

    bundle: Bundle
    reconstruction: Learned
    precision: str
    engine: str
    lineup: Lineup

    def __str__(self) -> str:
        return f"{self.bundle.name} {self.bundle.version} {self.precision}"


def _unhurried() -> Scheduler:
    """One without deadlines, that looks at no sensor."""
    return Scheduler(Deadlines(), Thermal(), Counters())


class ModelInUse:
    """The model that scans take which begin now; ``None`` where only classical images are wanted. From any thread."""

    def __init__(self, model: Model | None) -> None:
        self.current = model


@dataclass(frozen=True)
class Runtime:
    """Shared by all sessions; immutable but for the threads inside, and for which model the next scan takes.

    Attributes:
        in_use: holds that model. A session asks once and keeps what it got (`model`).
        plans: kernels of the slices that are being reconstructed.
        output: folder for DICOM series and reports, ``None`` to keep nothing.
        memory: what scans reserve before they allocate.
        handover: what written images are handed to for delivery; ``None``: they stay where they are.
        journal: where raw readouts go as they come; ``None``: nowhere.
        giving_up: set when the server ends and what still waits shall not be reconstructed any more.
        previews: shares of a slice's expected readouts at which a preview is made.
        notes: on this process, that every image carries.
        took: how long the scans before took.
        observers: whom sessions tell what happens.
        heart: where threads show that they go on.
        counters: what is counted, for whoever shows it.
        scheduler: says with how much work an image is made.
        crumbs: where it is written down what engines do.
    """

    profile: Profile
    in_use: ModelInUse
    pool: ReconstructionPool
    plans: Plans
    output: Path | None
    memory: MemoryBudget
    previews: tuple[float, ...] = DEFAULT_PREVIEWS
    handover: Handover | None = None
    journal: Journal | None = None
    giving_up: threading.Event = field(default_factory=threading.Event)
    notes: tuple[str, ...] = ()
    took: Took = field(default_factory=Took)
    observers: Observers = field(default_factory=Observers)
    heart: Heart = field(default_factory=Heart)
    counters: Counters = field(default_factory=Counters)
    scheduler: Scheduler = field(default_factory=_unhurried)
    crumbs: Crumbs | None = None

    @property
    def model(self) -> Model | None:
        """What a scan takes that begins now."""
        return self.in_use.current

    def provenance(self, model: Model | None, ready: Ready | None = None, degraded: str = "") -> Provenance:
        """What made an image.

        Args:
            model: of learned images, ``None`` for the others.
            ready: form and engine; those that the model began with, where nobody says.
            degraded: in which steps less work went into it, and why.
        """
        if model is None:
            return Provenance(runtime_version(), profile=self.profile.name, degraded=degraded)
        bundle = model.bundle
        return Provenance(
            runtime_version(),
            bundle.name,
            bundle.version,
            bundle.digest,
            model.engine if ready is None else ready.engine,
            model.precision if ready is None else ready.precision,
            self.profile.name,
            bundle.override.reason if bundle.override else "",
            degraded,
        )


def choose_plans(profile: Profile) -> tuple[Plans, tuple[str, ...]]:
    """Plans on the first of the profile's devices that can be used, and what is to be said of those before it.

    Raises:
        DeviceError: none can; says what is missing.
    """
    notes: list[str] = []
    for device in profile.kernels:
        where: Where = "cuda" if device == "cuda" else "cpu"
        try:
            return Plans(Workers(profile.threads), where), tuple(notes)
        except DeviceError as error:
            if device == profile.kernels[-1]:
                raise
            notes.append(f"kernels do not run on {device}, as profile {profile.name} prefers: {error}")
            log.warning("%s", notes[-1])
    raise AssertionError("a profile names a device")


def prepare_model(
    bundle: Bundle,
    profile: Profile,
    precision: str | None = None,
    *,
    counters: Counters | None = None,
    crumbs: Crumbs | None = None,
) -> Model:
    """Plans the first of the profile's precisions that the bundle holds and checks it against the golden outputs.

    Args:
        precision: insists on one.
        counters: where failures of engines are counted.
        crumbs: where it is written down what engines do, for the next start to find.

    Raises:
        BundleError: the precision asked for is not in the bundle.
        GoldenMismatch: golden outputs are not reproduced.
        EngineError: no engine of the profile runs it.
        DeviceError: the GPU can't be used, and the profile allows nothing else.
    """
    wanted = (precision,) if precision else tuple(p for p in profile.precisions if p in bundle.forms)
    if not wanted or wanted[0] not in bundle.forms:
        raise BundleError(
            f"bundle {bundle.name} holds {', '.join(sorted(bundle.forms))}; "
            f"wanted is {precision or ' or '.join(profile.precisions)}"
        )
    form = bundle.forms[wanted[0]]
    watch = Watch(profile.deadlines.patience_s, crumbs)
    ready = Ready(form.precision, admit(bundle, form, profile.engines, profile.threads, profile.compilation, watch))
    # A form is within the quality gate where the bundle keeps its limits, and only there.
    lower = () if precision or bundle.override else less_precise(form.precision, bundle.forms, profile.precisions)
    lineup = Lineup(bundle, profile, watch, counters or Counters(), ready, lower)
    return Model(replace(bundle, forms={}), ready.learned, form.precision, ready.engine, lineup)


def open_model(
    path: Path,
    profile: Profile,
    precision: str | None,
    trust: Path | None,
    counters: Counters,
    crumbs: Crumbs | None = None,
) -> Model:
    """The model of a bundle that is trusted here; the log says what it is and who answers for it.

    The file is read once, whole: what happens to it afterwards does not matter.

    Raises:
        BundleError, TrustStoreError, EngineError, DeviceError: see `open_runtime` and `prepare_model`.
    """
    bundle = load_bundle(path, None if trust is None else load_trust_store(trust))
    name, key_id = bundle.signed_by
    log.info("bundle %s %s, SHA-256 %s, signed by %s (%s)", bundle.name, bundle.version, bundle.digest, name, key_id)
    if bundle.override is not None:
        misses = "; ".join(bundle.override.misses)
        log.warning("bundle %s: quality limits overridden (%s): %s", bundle.name, misses, bundle.override.reason)
    return prepare_model(bundle, profile, precision, counters=counters, crumbs=crumbs)


@contextlib.contextmanager
def open_runtime(
    profile: Profile,
    *,
    bundle: Path | None,
    output: Path | None,
    precision: str | None = None,
    trust: Path | None = None,
    previews: tuple[float, ...] = (0.25, 0.5, 0.75),
    crumbs: Crumbs | None = None,
    machine: Path = Path("/"),
    handover: Handover | None = None,
    journal: Journal | None = None,
) -> Iterator[Runtime]:
    """Makes everything ready, and ends the threads afterwards.

    Meanwhile numpy's linear algebra has one thread in the whole process.

    Args:
        bundle: the model bundle, ``None`` for classical images only.
        handover: what written images are handed to for delivery.
        journal: where raw readouts go as they come.
        trust: folder of the keys that may sign it; without one the profile's, without that the one that comes with the package.
        crumbs: where it is written down what engines do, for the next start to find.
        machine: root of ``/sys`` and the like.

    Raises:
        BundleError: the bundle is refused.
        TrustStoreError: the trust store can't be read.
        DeviceError: the profile's kernels can't run here.
        EngineError: no engine is fit. Where all that could be have failed before, and the profile lets the learned image give way,
            there are classical ones alone, which say so.
    """
    counters, without = Counters(), ""
    model: Model | None = None
    if bundle is not None:
        try:
            model = open_model(bundle, profile, precision, trust or profile.trust, counters, crumbs)
        except EngineQuarantined as error:
            if CLASSICAL not in profile.deadlines.steps:
                raise
            without = f"no learned images: {error}"
            log.error("%s", without)
    plans, notes = choose_plans(profile)
    notes = (*notes, without) if without else notes
    scheduler = Scheduler(profile.deadlines, profile.thermal, counters, machine)
    # The threads of numpy's BLAS spin for a tenth of a second after their work, in which the network lacks a core.
    blas = threadpool_limits(1, user_api="blas")
    heart, in_use = Heart(), ModelInUse(model)
    pool = ReconstructionPool(profile.reconstruction_workers, profile.pending_slices, heart)
    try:
        memory = MemoryBudget(profile.total_bytes)
        scheduler.start()
        runtime = Runtime(
            profile,
            in_use,
            pool,
            plans,
            output,
            memory,
            previews,
            handover,
            journal,
            notes=notes,
            heart=heart,
            counters=counters,
            scheduler=scheduler,
            crumbs=crumbs,
        )
        if model is not None:
            model.lineup.quarantined = runtime.observers.quarantined
        yield runtime
    finally:
        scheduler.stop()
        pool.close()
        if in_use.current is not None:
            in_use.current.lineup.close()
        blas.restore_original_limits()
