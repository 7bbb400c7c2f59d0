"""What an operator asks of a destination before relying on it: is it there, does it admit this device, does it take its images?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from edge_runtime.delivery.configuration import Callback, DeliverySettings, Destination, DicomPeer, FolderPeer, WebPeer
from edge_runtime.errors import DestinationError, NotAdmitted, Unreachable

VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        found: in plain words, with the mend where it is bad.
    """

    name: str
    good: bool
    found: str


def check(settings: DeliverySettings, destination: Destination) -> Iterator[Finding]:
    """Looks at a destination step by step; ends at the first thing that keeps objects from getting there."""
    peer = destination.peer
    try:
        if isinstance(peer, DicomPeer):
            yield from _check_dimse(settings, destination, peer)
        elif isinstance(peer, WebPeer):
            yield from _check_web(peer)
        else:
            yield from _check_folder(destination, peer)
        if destination.confirm == "qido" and isinstance(peer, DicomPeer) and destination.verify is not None:
            yield from _check_web(destination.verify)
    except DestinationError as error:
        yield Finding("connection" if isinstance(error, Unreachable) else "admission", False, str(error))


def check_peer(settings: DeliverySettings, peer: DicomPeer) -> Iterator[Finding]:
    """Looks whether an application entity answers C-ECHO."""
    try:
        yield _echo(settings, peer)
    except DestinationError as error:
        yield Finding("connection" if isinstance(error, Unreachable) else "admission", False, str(error))


def _check_dimse(settings: DeliverySettings, destination: Destination, peer: DicomPeer) -> Iterator[Finding]:
    from pynetdicom.presentation import build_context

    from edge_runtime.delivery.destinations.association import associated, require_pynetdicom
    from edge_runtime.delivery.destinations.commitment import STORAGE_COMMITMENT
    from edge_runtime.delivery.destinations.compression import offered

    require_pynetdicom()
    yield _echo(settings, peer)
    smaller = offered(destination)
    images = EnhancedMRImageStorage if destination.objects == "enhanced" else MRImageStorage
    wanted = [
        build_context(STORAGE_COMMITMENT),
        *(build_context(images, syntax) for syntax in (ExplicitVRLittleEndian, *smaller)),
    ]
    with associated(settings.device.ae_title, peer, wanted) as association:
        syntaxes = association.syntaxes(images)
        takes = bool(syntaxes)
        commits = bool(association.syntaxes(STORAGE_COMMITMENT))
    yield Finding(
        "storage",
        takes,
        "takes MR images" if takes else f"does not take MR images: C-STORE of {images.name} is not allowed",
    )
    if takes and smaller:
        named = [UID(one).name for one in smaller if one in syntaxes]
        answer = f"takes {', '.join(named)}" if named else "takes no compressed images: they go as they are"
        yield Finding("compression", True, answer)
    if destination.confirm == "commitment":
        answer = "takes requests for storage commitment"
        if not commits:
            answer = 'knows no storage commitment: say confirm = "qido" with [destination.verify], or confirm = "none"'
        yield Finding("commitment", commits, answer)
        yield _callback(settings.device.callback)


def _callback(callback: Callback | None) -> Finding:
    if callback is None:
        return Finding(
            "call-back",
            True,
            "none is configured: reports of storage commitment are heard on the association of the request only",
        )
    return Finding("call-back", True, f"reports are heard at {callback.host} port {callback.port}, which it must know")


def _echo(settings: DeliverySettings, peer: DicomPeer) -> Finding:
    from edge_runtime.delivery.destinations.association import associated, require_pynetdicom

    library = require_pynetdicom()
    context = library.presentation.build_context(VERIFICATION)
    with associated(settings.device.ae_title, peer, [context]) as association:
        status = association.pynetdicom.send_c_echo()
    secured = "over TLS" if peer.tls is not None else "unencrypted"
    if "Status" not in status:
        raise Unreachable(
            f"{peer.ae_title} at {peer.host} port {peer.port}: it took the association and broke it at C-ECHO"
        )
    if int(status.Status) != 0:
        raise NotAdmitted(f"{peer.ae_title}: C-ECHO is answered with status {int(status.Status):04X}h")
    return Finding(
        "echo", True, f"{peer.ae_title} at {peer.host} port {peer.port} answers {settings.device.ae_title}, {secured}"
    )


def _check_web(peer: WebPeer) -> Iterator[Finding]:
    from edge_runtime.delivery.destinations.web import Verifier

    Verifier(peer).capabilities()
    yield Finding("DICOMweb", True, f"{peer.url} answers QIDO-RS; whether it takes STOW-RS shows at the first object")


def _check_folder(destination: Destination, peer: FolderPeer) -> Iterator[Finding]:
    from edge_runtime.delivery.destinations.folder import FolderCourier

    FolderCourier(destination).check()
    yield Finding("folder", True, f"{peer.path} can be written to")
