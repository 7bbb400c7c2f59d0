"""Where receivers report what they keep, on associations of their own (PS3.4 J.3.3)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from edge_runtime.delivery.configuration import Callback, DeliverySettings
from edge_runtime.delivery.destinations.association import LARGEST_PDU_BYTES, require_pynetdicom
from edge_runtime.delivery.destinations.commitment import STORAGE_COMMITMENT, take_report
from edge_runtime.delivery.destinations.progress import tune
from edge_runtime.delivery.destinations.tls import server_context
from edge_runtime.delivery.outbox.store import Outbox
from edge_runtime.errors import DeliveryError

log = logging.getLogger(__name__)

MOST_ASSOCIATIONS = 10
QUIET_S = 60.0


@contextlib.contextmanager
def listening(settings: DeliverySettings, callback: Callback, outbox: Outbox) -> Iterator[None]:
    """Listens for reports of storage commitment, from the AE titles of the configuration alone.

    Raises:
        DeliveryError: the address can't be listened on; says why.
        NotAdmitted: a TLS file is missing.
    """
    library = require_pynetdicom()
    entity = library.AE(ae_title=settings.device.ae_title)
    entity.maximum_pdu_size = LARGEST_PDU_BYTES
    entity.maximum_associations = MOST_ASSOCIATIONS
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = QUIET_S
    entity.require_calling_aet = sorted(callback.callers)
    entity.require_called_aet = True
    # The receiver is the SCP of the service although it makes the association: roles are exchanged (PS3.4 J.3.3.1).
    entity.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
    entity.add_supported_context("1.2.840.10008.1.1")
    patience = {one.name: one.patience for one in settings.destinations}

    def report(event: Any) -> tuple[int, None]:
        return take_report(event, outbox, patience), None

    def opened(event: Any) -> None:
        tune(event.assoc.dul.socket.socket, None)

    handlers = [(library.evt.EVT_N_EVENT_REPORT, report), (library.evt.EVT_CONN_OPEN, opened)]
    tls = server_context(callback.tls) if callback.tls is not None else None
    try:
        server = entity.start_server(
            (callback.host, callback.port), block=False, evt_handlers=handlers, ssl_context=tls
        )
    except OSError as error:
        raise DeliveryError(
            f"device.callback: {callback.host} port {callback.port}: {error.strerror or error}: "
            "is another sender at work? Reports of storage commitment go to that one"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
