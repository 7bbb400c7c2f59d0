"""Storage commitment, push model (PS3.4 annex J): the receiver says in its own time what it keeps.

A request is written down before it is made. Its report comes on the association of the request, on one that the receiver makes to
`callback`, or never; then it is asked for again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from edge_runtime.delivery.configuration import Destination, Device, DicomPeer
from edge_runtime.delivery.destinations.association import associated, require_pynetdicom
from edge_runtime.delivery.outbox.backoff import Patience
from edge_runtime.delivery.outbox.processes import this_process
from edge_runtime.delivery.outbox.store import Delivery, Outbox
from edge_runtime.errors import NotAdmitted, Unreachable

log = logging.getLogger(__name__)

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST = 1
"""Action type (PS3.4 J.3.2.1.1)."""

LINGER_S = 5.0
"""How long the association of a request stays, where the receiver may report on another one."""

PATIENCE = Patience(10, 5.0, 900.0)
"""With objects of a destination that the configuration does not name any more."""

SUCCESS, PROCESSING_FAILURE, NO_SUCH_EVENT = 0x0000, 0x0110, 0x0113

_REASONS = {
    0x0110: "it failed to process it",
    0x0112: "it does not have it",
    0x0119: "it has it under another SOP class",
    0x0122: "it does not support its SOP class",
    0x0131: "it has seen this request before",
    0x0213: "it has no room for it",
}
"""Failure reasons (PS3.3 C.14.1.1)."""


def ask_for_commitment(
    device: Device, destination: Destination, peer: DicomPeer, outbox: Outbox, objects: Sequence[Delivery]
) -> None:
    """Asks a receiver to keep objects that it has, and listens for a while.

    Raises:
        Unreachable, NotAdmitted: it was not asked, or did not take the request.
    """
    library = require_pynetdicom()
    transaction = str(generate_uid(prefix=None))
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = []
    for one in objects:
        item = Dataset()
        item.ReferencedSOPClassUID = one.identity.sop_class_uid
        item.ReferencedSOPInstanceUID = one.identity.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    begun, answered = threading.Event(), threading.Event()

    def report(event: Any) -> tuple[int, None]:
        begun.set()
        return take_report(event, outbox, {destination.name: destination.patience}), None

    def sent(event: Any) -> None:
        if type(event.message).__name__ == "N_EVENT_REPORT_RSP":
            answered.set()

    context = library.presentation.build_context(STORAGE_COMMITMENT)
    handlers = [(library.evt.EVT_N_EVENT_REPORT, report), (library.evt.EVT_DIMSE_SENT, sent)]
    outbox.open_commitment(transaction, destination.name, this_process(), [one.id for one in objects])
    taken = False
    try:
        with associated(device.ae_title, peer, [context], handlers=handlers) as association:
            status, _ = association.pynetdicom.send_n_action(request, REQUEST, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
            if "Status" not in status:
                raise Unreachable(
                    f"{peer.ae_title}: the association broke before it took the request for storage commitment"
                )
            if int(status.Status) != SUCCESS:
                raise NotAdmitted(
                    f"{peer.ae_title}: it refuses storage commitment, status {int(status.Status):04X}h: "
                    'say confirm = "qido" or "none" where it has none'
                )
            taken = True
            patience_s = peer.timeout_s if device.callback is None else min(LINGER_S, peer.timeout_s)
            # The watch would take a longer silence for a broken link. The report may come to the call-back, too.
            until = time.monotonic() + 0.9 * patience_s
            while time.monotonic() < until and not answered.wait(0.1):
                if not begun.is_set() and outbox.commitment_destination(transaction) is None:
                    break
    except (Unreachable, NotAdmitted):
        if not taken:
            raise
    finally:
        if not taken:
            outbox.drop_commitment(transaction)


def take_report(event: Any, outbox: Outbox, patience_with: dict[str, Patience]) -> int:
    """Writes down what a receiver reports (PS3.4 J.3.3); returns the status to answer.

    Args:
        patience_with: an object of each destination.
    """
    try:
        information = event.event_information
        transaction = str(information.TransactionUID)
        kept = {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence", [])}
        missing = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", PROCESSING_FAILURE))
            for item in information.get("FailedSOPSequence", [])
        }
    except (AttributeError, ValueError, TypeError, NotImplementedError):
        return PROCESSING_FAILURE
    if event.event_type not in (1, 2):
        return NO_SUCH_EVENT
    destination = outbox.commitment_destination(transaction)
    reasons = {
        uid: f"it was sent, and storage commitment says: {_REASONS.get(reason, 'not kept')} ({reason:04X}h)"
        for uid, reason in missing.items()
    }
    patience = patience_with.get(destination or "", PATIENCE)
    if destination is None or not outbox.report_commitment(transaction, kept - set(missing), reasons, patience):
        log.info("a report of storage commitment %s that nothing waits for", transaction[:64])
    elif missing:
        log.warning(
            "%s: does not keep %d of %d objects that it took", destination, len(missing), len(missing) + len(kept)
        )
    return SUCCESS
