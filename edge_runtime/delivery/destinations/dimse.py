"""C-STORE: many objects over one association (PS3.4 annex B)."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian

from edge_runtime.delivery.configuration import Destination, Device, DicomPeer
from edge_runtime.delivery.destinations.association import (
    MOST_CONTEXTS,
    Association,
    associated,
    require_pynetdicom,
    undisturbed,
)
from edge_runtime.delivery.destinations.commitment import ask_for_commitment
from edge_runtime.delivery.destinations.compression import LinkSpeed, compressed, offered
from edge_runtime.delivery.destinations.courier import Settle
from edge_runtime.delivery.destinations.store_request import Answer, store
from edge_runtime.delivery.fit import printable
from edge_runtime.delivery.outbox.store import Delivery, Failed, Lost, Outbox, Outcome, Sent
from edge_runtime.errors import DeliveryError, DestinationError, NotAdmitted, Unreachable

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
        self._offered = offered(destination)
        self._speed = LinkSpeed(self._share())

    def send(self, objects: Iterator[Delivery], kinds: Collection[tuple[str, str]], settle: Settle) -> None:
        """See `courier.Courier`."""
        contexts = _contexts(kinds, self._offered)
        cap = self._share()
        with (
            associated(self._device.ae_title, self._peer, contexts, bandwidth_bytes_per_s=cap) as association,
            undisturbed(association) as alone,
        ):
            numbers = itertools.cycle(range(1, 65536))
            for delivery in objects:
                try:
                    outcome = self._send_one(association, delivery, next(numbers), alone)
                except DestinationError as error:
                    # It says that it takes nothing now; whether it means this object alone shows when others get through.
                    settle(delivery, Lost(str(error)))
                    raise
                settle(delivery, outcome)
                if isinstance(outcome, Lost):
                    raise Unreachable(outcome.reason)
                association.steps()

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        """See `courier.Courier`: asks for storage commitment; what is answered is written down by whoever hears it."""
        ask_for_commitment(self._device, self._destination, self._peer, self._outbox, objects)
        return {}

    def _share(self) -> int | None:
        """Of the destination's cap, for one connection."""
        cap = self._destination.pace.bandwidth_bytes_per_s
        return None if cap is None else max(1, cap // self._destination.pace.associations)

    def _send_one(self, association: Association, delivery: Delivery, number: int, alone: bool) -> Outcome:
        assert delivery.path is not None
        syntaxes = association.syntaxes(delivery.identity.sop_class_uid)
        what, size_bytes = self._as_accepted(delivery, delivery.path, syntaxes)
        if what is None:
            known = f"only {', '.join(sorted(syntaxes))}" if syntaxes else "no transfer syntax"
            return Failed(
                f"{self._peer.ae_title} takes {known} for SOP class {delivery.identity.sop_class_uid}, "
                f"and the object is {delivery.identity.transfer_syntax_uid}", final=True,
            )  # fmt: skip
        began = time.monotonic()
        try:
            answer = self._store(association, delivery, what, number, alone)
        except RuntimeError:  # the association is gone, and nothing of this object was sent
            return Lost(f"{self._peer.ae_title}: it ended the association")
        except (DeliveryError, ValueError, AttributeError) as error:
            return Failed(f"can't be encoded: {error}", final=True)
        outcome = self._outcome(answer)
        if isinstance(outcome, Sent):
            self._speed.sent(size_bytes, time.monotonic() - began)
        return outcome

    def _store(self, association: Association, delivery: Delivery, what: Any, number: int, alone: bool) -> Answer:
        """Sends a file, as its bytes where that can be, or a dataset."""
        identity, priority = delivery.identity, _PRIORITY_OF[int(delivery.urgency)]
        context = association.context_id(identity.sop_class_uid, identity.transfer_syntax_uid)
        if alone and context is not None and isinstance(what, Path):
            return store(
                association.pynetdicom,
                context,
                what,
                sop_class_uid=identity.sop_class_uid,
                sop_instance_uid=identity.sop_instance_uid,
                number=number,
                priority=priority,
            )
        status = association.pynetdicom.send_c_store(what, number, priority)
        if "Status" not in status:
            return Answer(None)
        return Answer(int(status.Status), str(status.get("ErrorComment", "") or ""))

    def _as_accepted(self, delivery: Delivery, path: Path, accepted: frozenset[str]) -> tuple[Any, int]:
        """An object in a transfer syntax that the receiver takes, with its size in bytes; ``None`` where there is none."""
        own = delivery.identity.transfer_syntax_uid
        if self._compresses() or not accepted & {own, IMPLICIT}:
            smaller = compressed(path, accepted)
            if smaller is not None:
                return smaller, len(smaller.PixelData)
        if own in accepted:
            return path, delivery.size_bytes
        if IMPLICIT in accepted and not _is_compressed(own):
            return dcmread(path), delivery.size_bytes  # encoded anew
        return None, 0

    def _compresses(self) -> bool:
        """Whether the next object is compressed, if the receiver takes that."""
        if self._destination.compress == "slow-link":
            return self._speed.is_slow(self._destination.slow_link_bytes_per_s)
        return self._destination.compress == "always"

    def _outcome(self, answer: Answer) -> Outcome:
        """What an answer means (PS3.4 B.2.3, PS3.7 annex C)."""
        code = answer.status
        if code is None:
            return Lost(f"{self._peer.ae_title}: the association broke before the answer")
        said = f"status {code:04X}h"
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
        return Failed(f"{self._peer.ae_title} refuses it, {said}", remark=printable(answer.comment)[:100])


def _is_compressed(transfer_syntax_uid: str) -> bool:
    return bool(UID(transfer_syntax_uid).is_compressed)


def _contexts(kinds: Collection[tuple[str, str]], offered: Collection[str]) -> list[PresentationContext]:
    """Each class in the syntax that its objects have, in the one that every receiver takes, and in those of ``offered``."""
    from pynetdicom.presentation import build_context

    wanted = dict.fromkeys(kinds)
    wanted.update(dict.fromkeys((sop_class, IMPLICIT) for sop_class, _ in kinds))
    wanted.update(
        dict.fromkeys((sop_class, syntax) for sop_class, own in kinds if not _is_compressed(own) for syntax in offered)
    )
    return [build_context(sop_class, syntax) for sop_class, syntax in list(wanted)[:MOST_CONTEXTS]]
