"""Tells the hospital of performed steps, message by message, however long it takes until somebody listens."""

from __future__ import annotations

import logging
import random
import threading

from pydicom.dataset import Dataset

from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.destinations.association import associated
from edge_runtime.delivery.identity import ModalityPerformedProcedureStep
from edge_runtime.delivery.worklist.store import Untold, WorklistStore
from edge_runtime.errors import DestinationError, NotTaken, Unreachable, WorklistError

log = logging.getLogger(__name__)

POLL_S = 1.0
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 600.0

_SUCCESS = 0x0000
_KNOWN_ALREADY = 0x0111
"""Duplicate SOP instance (PS3.7 annex C): it was taken before, and the answer to that was lost."""

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
        wait_s = 0.0
        while not self._stop_wanted.wait(wait_s or POLL_S):
            try:
                tell_all(self._store, self._calling, self._peer, self._stop_wanted)
                wait_s = 0.0
            except (DestinationError, WorklistError) as error:
                wait_s = min(max(FIRST_RETRY_S, 2 * wait_s), LONGEST_RETRY_S) * random.uniform(0.5, 1.0)
                log.warning("performed steps: %s; again in %.0f s", error, wait_s)


def tell_all(store: WorklistStore, calling: str, peer: DicomPeer, stop: threading.Event | None = None) -> int:
    """Tells what is untold, over one association; returns how many messages were taken.

    Raises:
        Unreachable: nobody answers, or it broke off; what was not taken waits.
        NotAdmitted: this device is turned away.
    """
    if (message := store.untold()) is None:
        return 0
    from pynetdicom.presentation import build_context

    taken = 0
    with associated(calling, peer, [build_context(ModalityPerformedProcedureStep)]) as association:
        while message is not None and not (stop is not None and stop.is_set()):
            try:
                _tell(association.pynetdicom, message, f"{peer.ae_title} at {peer.host} port {peer.port}")
                store.told(message.number)
                taken += 1
            except NotTaken as error:
                log.error("performed steps: %s", error)
                store.refused(message.step_uid, str(error))
            association.steps()
            message = store.untold()
    return taken


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
    raise NotTaken(f"{where}: it refuses what it is told of a step that has {message.kind}, with status 0x{code:04X}")
