"""C-STORE: many objects over one association (PS3.4 annex B)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian

from edge_runtime.delivery.configuration import Destination, Device, DicomPeer
from edge_runtime.delivery.destinations.association import MOST_CONTEXTS, Association, associated, require_pynetdicom
from edge_runtime.delivery.destinations.commitment import ask_for_commitment
from edge_runtime.delivery.destinations.courier import Settle
from edge_runtime.delivery.outbox.store import Delivery, Failed, Lost, Outbox, Outcome, Sent, Untried
from edge_runtime.errors import DestinationError, NotAdmitted, Unreachable

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

log = logging.getLogger(__name__)

IMPLICIT = str(ImplicitVRLittleEndian)
"""Every receiver has it (PS3.5 10.1)."""

_PRIORITY_OF = {0: 0x0000, 1: 0x0001, 2: 0x0001}  # MEDIUM, HIGH (PS3.7 9.1.1.1.6)


class DimseCourier:
    """Takes objects to one application entity.

    Args:
        outbox: where requests for commitment are written down.
    """

    def __init__(self, device: Device, destination: Destination, outbox: Outbox) -> None:
        if not isinstance(destination.peer, DicomPeer):
            raise TypeError(destination.name)
        require_pynetdicom()
        self._device = device
        self._destination = destination
        self._peer = destination.peer
        self._outbox = outbox

    def send(self, objects: Iterator[Delivery], kinds: Collection[tuple[str, str]], settle: Settle) -> None:
        """See `courier.Courier`."""
        cap = self._destination.pace.bandwidth_bytes_per_s
        share = None if cap is None else max(1, cap // self._destination.pace.associations)
        with associated(
            self._device.ae_title, self._peer, _contexts(kinds), bandwidth_bytes_per_s=share
        ) as association:
            numbers = itertools.cycle(range(1, 65536))
            for delivery in objects:
                try:
                    outcome = self._send_one(association, delivery, next(numbers))
                except DestinationError:  # it takes nothing at all now
                    settle(delivery, Untried())
                    raise
                settle(delivery, outcome)
                if isinstance(outcome, Lost):
                    raise Unreachable(outcome.reason)
                association.steps()

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        """See `courier.Courier`: asks for storage commitment; what is answered is written down by whoever hears it."""
        ask_for_commitment(self._device, self._destination, self._peer, self._outbox, objects)
        return {}

    def _send_one(self, association: Association, delivery: Delivery, number: int) -> Outcome:
        identity = delivery.identity
        assert delivery.path is not None
        syntaxes = association.syntaxes(identity.sop_class_uid)
        what: Any
        if identity.transfer_syntax_uid in syntaxes:
            what = delivery.path
        elif syntaxes and not _is_compressed(identity.transfer_syntax_uid):
            what = dcmread(delivery.path)  # encoded anew, in what the receiver takes
        else:
            known = f"only {', '.join(sorted(syntaxes))}" if syntaxes else "no transfer syntax"
            return Failed(
                f"{self._peer.ae_title} takes {known} for SOP class {identity.sop_class_uid}, "
                f"and the object is {identity.transfer_syntax_uid}", final=True,
            )  # fmt: skip
        try:
            status = association.pynetdicom.send_c_store(what, number, _PRIORITY_OF[int(delivery.urgency)])
        except RuntimeError:  # the association is gone, and nothing of this object was sent
            return Lost(f"{self._peer.ae_title}: it ended the association")
        except (ValueError, AttributeError) as error:
            return Failed(f"can't be encoded: {error}", final=True)
        return self._outcome(status)

    def _outcome(self, status: Any) -> Outcome:
        """What an answer means (PS3.4 B.2.3, PS3.7 annex C); an empty one is none at all."""
        if "Status" not in status:
            return Lost(f"{self._peer.ae_title}: the association broke before the answer")
        code = int(status.Status)
        comment = str(status.get("ErrorComment", "") or "")[:100]
        said = f"status {code:04X}h" + (f" ({comment})" if comment else "")
        if code == 0x0000:
            return Sent()
        if code == 0x0111:
            return Sent(f"{said}: it has it already")
        if code == 0x0001 or code & 0xF000 == 0xB000:
            return Sent(f"with a warning: {said}")
        if code & 0xFF00 == 0xA700:
            raise Unreachable(f"{self._peer.ae_title}: out of resources, {said}: is its disk full?")
        if code == 0x0124:
            raise NotAdmitted(f"{self._peer.ae_title}: this device may not store there, {said}")
        return Failed(f"{self._peer.ae_title} refuses it, {said}")


def _is_compressed(transfer_syntax_uid: str) -> bool:
    return bool(UID(transfer_syntax_uid).is_compressed)


def _contexts(kinds: Collection[tuple[str, str]]) -> list[PresentationContext]:
    """Each class in the syntax that its objects have, and in the one that every receiver takes."""
    from pynetdicom.presentation import build_context

    wanted = dict.fromkeys(kinds)
    wanted.update(dict.fromkeys((sop_class, IMPLICIT) for sop_class, _ in kinds))
    return [build_context(sop_class, syntax) for sop_class, syntax in list(wanted)[:MOST_CONTEXTS]]
