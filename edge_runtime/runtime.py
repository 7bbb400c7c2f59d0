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
from edge_runtime.bundle import Bundle, load_bundle, load_trust_store
from edge_runtime.errors import BundleError, DeviceError
from edge_runtime.kernels import Plans, Where, Workers
from edge_runtime.memory import MemoryBudget
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.pool import ReconstructionPool
from edge_runtime.profile import Profile
from edge_runtime.scan import Provenance

if TYPE_CHECKING:
    from edge_runtime.delivery.handover import Handover

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
    """

    bundle: Bundle
    reconstruction: Learned
    precision: str
    engine: str


@dataclass(frozen=True)
class Runtime:
    """Shared by all sessions; immutable but for the threads inside.

    Attributes:
        model: ``None`` where only classical images are wanted.
        plans: kernels of the slices that are being reconstructed.
        output: folder for DICOM series and reports, ``None`` to keep nothing.
        memory: what scans reserve before they allocate.
        handover: what written images are handed to for delivery; ``None``: they stay where they are.
        giving_up: set when the server ends and what still waits shall not be reconstructed any more.
        previews: shares of a slice's expected readouts at which a preview is made.
        notes: on this process, that every image carries.
    """

    profile: Profile
    model: Model | None
    pool: ReconstructionPool
    plans: Plans
    output: Path | None
    memory: MemoryBudget
    previews: tuple[float, ...] = DEFAULT_PREVIEWS
    handover: Handover | None = None
    giving_up: threading.Event = field(default_factory=threading.Event)
    notes: tuple[str, ...] = ()

    def provenance(self, *, learned: bool) -> Provenance:
        """What made an image, the model's part only for learned ones."""
        if not learned or self.model is None:
            return Provenance(runtime_version(), profile=self.profile.name)
        bundle = self.model.bundle
        return Provenance(
            runtime_version(),
            bundle.name,
            bundle.version,
            bundle.digest,
            self.model.engine,
            self.model.precision,
            self.profile.name,
            bundle.override.reason if bundle.override else "",
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


def prepare_model(bundle: Bundle, profile: Profile, precision: str | None = None) -> Model:
    """Plans the first of the profile's precisions that the bundle holds and checks it against the golden outputs.

    Args:
        precision: insists on one.

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
    admitted = admit(bundle, form, profile.engines, profile.threads, profile.compilation)
    # The graphs are the engine's now; a model of others may have a hundred megabytes of them.
    return Model(replace(bundle, forms={}), admitted.learned, form.precision, admitted.description)


def _prepare(path: Path, profile: Profile, precision: str | None, trust: Path | None) -> Model:
    """The model of a bundle that is trusted here; the log says what it is and who answers for it."""
    bundle = load_bundle(path, None if trust is None else load_trust_store(trust))
    name, key_id = bundle.signed_by
    log.info("bundle %s %s, SHA-256 %s, signed by %s (%s)", bundle.name, bundle.version, bundle.digest, name, key_id)
    if bundle.override is not None:
        misses = "; ".join(bundle.override.misses)
        log.warning("bundle %s: quality limits overridden (%s): %s", bundle.name, misses, bundle.override.reason)
    return prepare_model(bundle, profile, precision)


@contextlib.contextmanager
def open_runtime(
    profile: Profile,
    *,
    bundle: Path | None,
    output: Path | None,
    precision: str | None = None,
    trust: Path | None = None,
    previews: tuple[float, ...] = (0.25, 0.5, 0.75),
    handover: Handover | None = None,
) -> Iterator[Runtime]:
    """Makes everything ready, and ends the threads afterwards.

    Meanwhile numpy's linear algebra has one thread in the whole process.

    Args:
        bundle: the model bundle, ``None`` for classical images only.
        handover: what written images are handed to for delivery.
        trust: folder of the keys that may sign it; without one the profile's, without that the one that comes with the package.

    Raises:
        BundleError: the bundle is refused.
        TrustStoreError: the trust store can't be read.
        DeviceError: the profile's kernels can't run here.
    """
    model = _prepare(bundle, profile, precision, trust or profile.trust) if bundle is not None else None
    plans, notes = choose_plans(profile)
    # The threads of numpy's BLAS spin for a tenth of a second after their work, in which the network lacks a core.
    blas = threadpool_limits(1, user_api="blas")
    pool = ReconstructionPool(profile.reconstruction_workers, profile.pending_slices)
    try:
        memory = MemoryBudget(profile.total_bytes)
        yield Runtime(profile, model, pool, plans, output, memory, previews, handover, notes=notes)
    finally:
        pool.close()
        blas.restore_original_limits()
