"""Tells the hospital of performed steps, message by message, however long it takes until somebody listens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.destinations.association import associated
from edge_runtime.delivery.identity import ModalityPerformedProcedureStep
from edge_runtime.delivery.outbox.backoff import Patience
from edge_runtime.delivery.worklist.store import Untold, WorklistStore
from edge_runtime.errors import DestinationError, NotTaken, Unreachable, WorklistError

log = logging.getLogger(__name__)

POLL_S = 1.0

MOST_ATTEMPTS = 40
"""Of a message that the hospital answers each time that it can't take now; with the waits between them, about four hours."""

PATIENCE = Patience(MOST_ATTEMPTS, 1.0, 600.0)

_SUCCESS = 0x0000
_KNOWN_ALREADY = 0x0111
"""Duplicate SOP instance (PS3.7 annex C): it was taken before, and the answer to that was lost."""

_PASSING = frozenset({0x0110, 0x0213})
"""Processing failure and resource limitation (PS3.7 annex C): of the hospital's own troubles, not of what it is told."""

_CLOSED = 0xA710
"""Error ID of a step that may no longer be updated (PS3.4 table F.7.2-2): it has ended, and the answer to that was lost."""

_WARNINGS = frozenset({0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)})


class Teller(threading.Thread):
    """Runs until it is stopped; one a store.

    Args:
        calling: this device's AE title.
        peer: who is told.
    """

    def __init__(self, store: WorklistStore, calling: str, peer: DicomPeer) -> None:
        super().__init__(name="performed-steps", daemon=True)
        self._store, self._calling, self._peer = store, calling, peer
        self._stop_wanted = threading.Event()

    def stop(self) -> None:
        """Ends after the message that it is at."""
        self._stop_wanted.set()

    def run(self) -> None:
        failures, wait_s = 0, POLL_S
        not_before: dict[str, float] = {}  # of steps that the hospital could not take, by the monotonic clock
        while not self._stop_wanted.wait(wait_s):
            now = time.monotonic()
            not_before = {step: due for step, due in not_before.items() if due > now}
            try:
                told = tell_all(self._store, self._calling, self._peer, self._stop_wanted, not_before)
                failures, wait_s = 0, POLL_S
            except (DestinationError, WorklistError) as error:
                failures += 1
                wait_s = PATIENCE.wait_s(failures)
                log.warning("performed steps: %s; again in %.0f s", error, wait_s)
                continue
            for step, put_off in told.put_off.items():
                step_wait_s = PATIENCE.wait_s(put_off.attempts)
                not_before[step] = now + step_wait_s
                log.warning("performed steps: %s; again in %.0f s", put_off.reason, step_wait_s)


@dataclass(frozen=True, slots=True)
class PutOff:
    """Why a step was not taken, and how often that has happened."""

    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Told:
    """What came of telling.

    Attributes:
        taken: messages.
        put_off: steps that the hospital can't take now.
    """

    taken: int = 0
    put_off: Mapping[str, PutOff] = field(default_factory=dict)


def tell_all(
    store: WorklistStore,
    calling: str,
    peer: DicomPeer,
    stop: threading.Event | None = None,
    without: Collection[str] = (),
) -> Told:
    """Tells what is untold, over one association.

    Args:
        without: steps that are left alone.

    Raises:
        Unreachable: nobody answers, or it broke off; what was not taken waits.
        NotAdmitted: this device is turned away.
    """
    if (message := store.untold(without)) is None:
        return Told()
    from pynetdicom.presentation import build_context

    taken = 0
    where = f"{peer.ae_title} at {peer.host} port {peer.port}"
    put_off: dict[str, PutOff] = {}  # what happened to a step is told in its order or not at all
    with associated(calling, peer, [build_context(ModalityPerformedProcedureStep)]) as association:
        while message is not None and not (stop is not None and stop.is_set()):
            try:
                _tell(association.pynetdicom, message, where)
                store.told(message.number)
                taken += 1
            except _NotNow as error:
                store.put_off(message.number)
                put_off[message.step_uid] = PutOff(str(error), message.attempts + 1)
            except NotTaken as error:
                log.error("performed steps: %s", error)
                store.refused(message.step_uid, str(error))
            association.steps()
            message = store.untold({*without, *put_off})
    return Told(taken, put_off)


class _NotNow(Exception):
    """It answered that it can't take a message now."""


def _tell(association: object, message: Untold, where: str) -> None:
    dataset = Dataset.from_json(message.document)
    send = association.send_n_create if message.kind == "begun" else association.send_n_set  # type: ignore[attr-defined]
    try:
        status, _ = send(dataset, ModalityPerformedProcedureStep, message.step_uid)
    except RuntimeError:  # how pynetdicom says that the association has gone
        raise Unreachable(f"{where}: the connection broke") from None
    code = status.get("Status")
    if code is None:
        raise Unreachable(f"{where}: it stopped before it answered")
    if code == _SUCCESS or code in _WARNINGS or (message.kind == "begun" and code == _KNOWN_ALREADY):
        return
    if message.kind == "ended" and status.get("ErrorID") == _CLOSED:
        return
    what = f"{where}: of a step that has {message.kind}, it answers with status 0x{code:04X}"
    if code in _PASSING and message.attempts + 1 < MOST_ATTEMPTS:
        raise _NotNow(what)
    raise NotTaken(what)
