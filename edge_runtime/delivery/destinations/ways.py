"""The courier of each kind of destination."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.delivery.configuration import Destination, Device, DicomPeer, WebPeer
from edge_runtime.delivery.destinations.courier import Courier
from edge_runtime.delivery.outbox.store import Delivery, Outbox


def courier_for(device: Device, destination: Destination, outbox: Outbox) -> Courier:
    """What takes objects to a destination.

    Raises:
        DeliveryConfigurationError: something is not installed that it needs.
    """
    if isinstance(destination.peer, DicomPeer):
        from edge_runtime.delivery.destinations.dimse import DimseCourier

        return DimseCourier(device, destination, outbox)
    if isinstance(destination.peer, WebPeer):
        from edge_runtime.delivery.destinations.web import WebCourier

        return WebCourier(destination)
    from edge_runtime.delivery.destinations.folder import FolderCourier

    return FolderCourier(destination)


def confirm(courier: Courier, destination: Destination, objects: Sequence[Delivery]) -> dict[int, bool]:
    """Asks in the destination's way whether objects are kept; see `courier.Courier.confirm`."""
    if destination.confirm == "qido" and destination.verify is not None:
        from edge_runtime.delivery.destinations.web import Verifier

        return Verifier(destination.verify).confirm(objects)
    return courier.confirm(objects)
