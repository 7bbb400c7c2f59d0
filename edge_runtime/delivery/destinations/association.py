"""Associations with application entities of others: tuned, watched, and with reasons where they fail."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.destinations.diagnosis import HANGS, diagnose
from edge_runtime.delivery.destinations.progress import tune, watched
from edge_runtime.delivery.destinations.tls import client_context
from edge_runtime.errors import DeliveryConfigurationError, DestinationError, NotAdmitted, Unreachable

if TYPE_CHECKING:
    from pynetdicom.association import Association as Pynetdicom
    from pynetdicom.presentation import PresentationContext

LARGEST_PDU_BYTES = 256 << 10
"""What this side takes at once; how much it sends at once is the other's to say."""

MOST_CONTEXTS = 128
"""Of one association (PS3.8 9.3.2.2)."""

_REJECTIONS = {
    (1, 2): "it does not support this application context",
    (1, 3): "it does not know this device: register the AE title {calling!r} there, with this device's address",
    (1, 7): "it has no AE title {called!r}: ae_title must be its own",
    (2, 2): "it does not support this version of the protocol",
    (3, 1): "it is busy for the moment",
    (3, 2): "it takes no more associations for the moment",
}
"""By source and reason (PS3.8 9.3.4)."""


REACTOR_STOPS_S = 5.0


@dataclass(frozen=True)
class Association:
    """An association that stands.

    Attributes:
        pynetdicom: the library's own object.
        steps: to be called when something was answered, so that the watch knows.
    """

    pynetdicom: Pynetdicom
    steps: Callable[[], object]

    def takes(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether objects of a class may be sent in a transfer syntax."""
        return any(
            context.abstract_syntax == sop_class_uid and transfer_syntax_uid in context.transfer_syntax
            for context in self.pynetdicom.accepted_contexts
        )

    def context_id(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """Of the presentation context for a class in a transfer syntax; ``None`` where that was not accepted."""
        return next(
            (
                context.context_id
                for context in self.pynetdicom.accepted_contexts
                if context.abstract_syntax == sop_class_uid and transfer_syntax_uid in context.transfer_syntax
            ),
            None,
        )

    def syntaxes(self, sop_class_uid: str) -> frozenset[str]:
        """Transfer syntaxes in which objects of a class are taken; empty: the class is not."""
        return frozenset(
            str(syntax)
            for context in self.pynetdicom.accepted_contexts
            if context.abstract_syntax == sop_class_uid
            for syntax in context.transfer_syntax
        )


@contextlib.contextmanager
def undisturbed(association: Association) -> Iterator[bool]:
    """Keeps the association's reactor from working meanwhile: requests of the other side are not heard, answers to ours are.

    The reactor of pynetdicom looks for requests a thousand times a second. Before each of ours it is paused, but in 3.0.4 not for
    certain: it announces that it waits before it does, and on a busy machine it takes the answer to one request in thousands for a
    request, and drops it. The sender then waits until the watch gives up. Here it is known to have stopped, once for all objects.
    That it can be stopped is not part of the library's interface: where it is built otherwise, it is left alone.

    Yields:
        Whether it has stopped.
    """
    library = association.pynetdicom
    own = getattr(library, "_reactor_checkpoint", None)
    if not isinstance(own, threading.Event) or not own.is_set():
        yield False
        return
    gate = _Gate()
    library._reactor_checkpoint = gate
    try:
        yield gate.reached.wait(REACTOR_STOPS_S)
    finally:
        gate.open()


class _Gate(threading.Event):
    """Where pynetdicom's reactor of an association stays until the gate is opened, whoever sets it before."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self._held = True

    def set(self) -> None:
        if not self._held:
            super().set()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)

    def open(self) -> None:
        self._held = False
        super().set()


def require_pynetdicom() -> Any:
    """The library.

    Raises:
        DeliveryConfigurationError: it is not installed; says how to.
    """
    try:
        import pynetdicom
    except ImportError:
        raise DeliveryConfigurationError(
            "DIMSE needs pynetdicom, which is not installed: pip install 'edge-runtime[dicom-net]'"
        ) from None
    # Its log tells every element of what is sent, and with that patients' names.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    # Files are sent as they lie on the disk, neither decoded nor encoded again.
    pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True
    return pynetdicom


@contextlib.contextmanager
def associated(
    calling: str,
    peer: DicomPeer,
    contexts: Sequence[PresentationContext],
    *,
    handlers: Sequence[Any] = (),
    bandwidth_bytes_per_s: int | None = None,
) -> Iterator[Association]:
    """An association, released afterwards, or aborted where that is left by an exception.

    Args:
        calling: this device's AE title.
        contexts: what is proposed.
        handlers: of pynetdicom's events.
        bandwidth_bytes_per_s: cap.

    Raises:
        Unreachable: there is none, or what broke it off.
        NotAdmitted: the other side does not want this device.
    """
    library = require_pynetdicom()
    where = f"{peer.ae_title} at {peer.host} port {peer.port}"
    entity = library.AE(ae_title=calling)
    entity.maximum_pdu_size = LARGEST_PDU_BYTES
    entity.connection_timeout = entity.acse_timeout = peer.timeout_s
    entity.dimse_timeout = entity.network_timeout = None  # the watch knows better when to give up
    steps, held = [0], list[socket.socket]()

    def opened(event: Any) -> None:
        connection = event.assoc.dul.socket.socket
        held.append(connection)
        tune(connection, bandwidth_bytes_per_s)

    def step() -> None:
        steps[0] += 1

    tls = None
    if peer.tls is not None:
        tls = (client_context(peer.tls), peer.tls.server_name or peer.host)
    with watched(lambda: held[-1] if held else None, lambda: steps[0], peer.timeout_s) as gave_up:
        began = time.monotonic()
        try:
            association = entity.associate(
                peer.host,
                peer.port,
                contexts=list(contexts),
                ae_title=peer.ae_title,
                max_pdu=LARGEST_PDU_BYTES,
                tls_args=tls,
                evt_handlers=[(library.evt.EVT_CONN_OPEN, opened), *handlers],
            )
        except OSError:  # a name that is not known
            raise _refusal(None, calling, peer, where) from None
        if not association.is_established:
            broke_off = bool(held) and time.monotonic() - began < 0.9 * peer.timeout_s
            raise _refusal(association, calling, peer, where, broke_off)
        done = False
        try:
            yield Association(association, step)
            done = True
        finally:
            if not association.is_established or gave_up.is_set() or not done:
                association.abort()
            else:
                association.release()
    if gave_up.is_set():
        raise Unreachable(f"{where}: nothing moved for {peer.timeout_s:g} s: it hangs, or the link is down")


def _refusal(
    association: Pynetdicom | None, calling: str, peer: DicomPeer, where: str, broke_off: bool = False
) -> DestinationError:
    """Why there is no association; ``broke_off``: the other side ended the connection, before anybody lost patience."""
    if association is not None and association.is_rejected:
        primitive: Any = association.acceptor.primitive
        source, reason = int(primitive.result_source), int(primitive.diagnostic)
        text = _REJECTIONS.get((source, reason), "without a reason that the standard knows").format(
            calling=calling, called=peer.ae_title
        )
        kind = Unreachable if source == 3 else NotAdmitted
        return kind(f"{where}: it rejects the association: {text}")
    if association is not None and association.is_aborted and association.acceptor.primitive is not None:
        return NotAdmitted(f"{where}: it takes none of what this device offers: does it store MR images?")
    found = diagnose(peer.host, peer.port, peer.timeout_s, peer.tls)
    if broke_off and HANGS in str(found):
        return NotAdmitted(
            f"{where}: it breaks off at the association request: does it know the AE title {calling!r} with this device's "
            "address, and may that store there?"
        )
    return found
