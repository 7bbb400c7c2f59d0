"""What may go, and when: never before it is confirmed, or before the site's policy says so."""

from __future__ import annotations

import logging

from edge_runtime.delivery.configuration import DeliverySettings
from edge_runtime.delivery.outbox.store import Outbox
from edge_runtime.delivery.under_way import UnderWay

log = logging.getLogger(__name__)


def purge(outbox: Outbox, settings: DeliverySettings) -> int:
    """Removes what has been kept for long enough, and what is confirmed at once where room runs short.

    Returns:
        How many objects went.
    """
    policy, now = settings.outbox, outbox.time.now_s()
    unconfirming = [one.name for one in settings.destinations if one.confirm == "none"]
    keep_s = policy.keep_committed_s
    free = outbox.objects.free_bytes()
    if free < policy.purge_below_bytes:
        keep_s = 0.0
        log.warning(
            "outbox %s: %d MB free, fewer than purge_below_mb = %d: what is confirmed goes now",
            outbox.folder,
            free >> 20,
            policy.purge_below_bytes >> 20,
        )
    unconfirmed_before_s = None if policy.keep_unconfirmed_s is None else now - policy.keep_unconfirmed_s
    return outbox.purge(
        committed_before_s=now - keep_s,
        unconfirmed_before_s=unconfirmed_before_s,
        unconfirming=unconfirming,
        under_way=UnderWay(outbox.folder).scans(),
    )
