"""Binds each scan to the order that it answers when it begins, from the orders that are kept: no network is needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.delivery.uids import derived_uid
from edge_runtime.delivery.worklist.binding import (
    NO_ORDER,
    contradiction,
    is_emergency,
    match,
    ordered_header,
    unscheduled_header,
)
from edge_runtime.delivery.worklist.order import Order
from edge_runtime.delivery.worklist.performed import begun, ended, images_in
from edge_runtime.delivery.worklist.store import Bound, Cached, How, WorklistStore
from edge_runtime.errors import WorklistError
from edge_runtime.scan import Request, ScanHeader

log = logging.getLogger(__name__)


ABOUT_NOW_S = 36 * 3600.0
"""From noon of the day that an order is scheduled for: that day, half of the one before, and half of the one after."""


@dataclass(frozen=True, slots=True)
class _Decision:
    how: How
    order: Order | None
    remark: str


class Binder:
    """What a session asks when a scan begins. The operator's choice counts before what the header says; neither is followed where
    they contradict each other.

    Args:
        station_ae: this device's AE title where the hospital is told of performed steps; empty where it is not.
        clock: seconds since the epoch; dates and times of a scan are the local ones.
    """

    def __init__(self, store: WorklistStore, station_ae: str = "", clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._station_ae = station_ae
        self._clock = clock

    def header_of(self, scan_id: str, header: ScanHeader) -> ScanHeader:
        """The header with patient and study of the scan's order, or marked as unscheduled.

        A scan that goes on after a restart is bound as it was. Where the store can't be used the scan is unscheduled: an image
        without its order can be mended later, one of another patient not.
        """
        try:
            known = self._store.bound(scan_id)
            if known is not None:
                began = (known.started_date, known.started_time)
                return self._header(scan_id, header, _Decision(known.how, known.order, known.remark), began)
            decision = self._decide(scan_id, header)
            made = self._header(scan_id, header, decision, self._now())
            told = begun(made, self._station_ae).to_json() if self._station_ae else ""
            self._store.bind(
                Bound(
                    scan_id,
                    decision.how,
                    decision.order,
                    made.study.instance_uid,
                    made.patient.identifier,
                    made.request.performed_uid if made.request is not None else "",
                    *self._now(),
                    decision.remark,
                    self._clock(),
                ),
                told,
            )
            return made
        except WorklistError as error:
            log.error("scan %s: %s", scan_id, error)
            decision = _Decision("contradicted", None, "the orders that are kept can't be read")
            return self._header(scan_id, header, decision, self._now())

    def ended(self, scan: Path, *, whole: bool) -> None:
        """Writes down that a scan is over, whose folder has the name of its id."""
        scan_id = scan.name
        try:
            bound = self._store.bound(scan_id)
            if bound is None or bound.ended:
                return
            told = ""
            if self._station_ae and bound.performed_uid:
                told = ended(bound.performed_uid, images_in(scan), *self._now(), whole=whole).to_json()
            self._store.ended(scan_id, "COMPLETED" if whole else "DISCONTINUED", bound.performed_uid, told)
        except WorklistError as error:
            log.error("scan %s: %s", scan_id, error)

    def _decide(self, scan_id: str, header: ScanHeader) -> _Decision:
        choice = self._store.take_choice(scan_id)
        if choice is not None and choice.key is not None:
            order = self._store.order(choice.key)
            if complaint := contradiction(header, order):
                return _Decision("contradicted", None, f"the operator chose an order, but of the header {complaint}")
            return _Decision("operator", order, "by the operator's choice")
        if choice is not None and choice.emergency:
            return _Decision("emergency", None, "by the operator's choice")
        cached = self._store.orders()
        due = {one.order.key for one in cached if self._is_due(one)}
        found = match(header, [one.order for one in cached], lambda order: order.key in due)
        if found.order is not None:
            return _Decision("header", found.order, found.remark)
        if found.contradicts:
            return _Decision("contradicted", None, found.remark)
        return _Decision("emergency" if is_emergency(header) else "unscheduled", None, found.remark)

    def _is_due(self, cached: Cached) -> bool:
        """Whether an order is scheduled for about now; one without a date, whether it was on the worklist lately."""
        now = self._clock()
        if not cached.order.start_date:
            return abs(now - cached.seen_at) < ABOUT_NOW_S
        scheduled = time.mktime(time.strptime(f"{cached.order.start_date}12", "%Y%m%d%H"))
        return abs(now - scheduled) < ABOUT_NOW_S

    def _header(self, scan_id: str, header: ScanHeader, decision: _Decision, now: tuple[str, str]) -> ScanHeader:
        request = Request(started_date=now[0], started_time=now[1])
        if self._station_ae:
            uid = derived_uid("performed step", scan_id)
            request = replace(request, performed_uid=uid, performed_id=f"P{uid[-10:]}")
        order = decision.order
        if order is not None:
            began = self._store.study_began(order.study_uid) or now
            made = ordered_header(header, order, request, began)
            return replace(made, notes=(f"bound to an order of the worklist {decision.remark}", *made.notes))
        made = unscheduled_header(
            header,
            scan_id,
            request,
            now,
            emergency=decision.how == "emergency",
            believed=decision.how != "contradicted",
        )
        return replace(made, notes=(*made.notes, f"{NO_ORDER}{decision.remark}"))

    def _now(self) -> tuple[str, str]:
        now = time.localtime(self._clock())
        return time.strftime("%Y%m%d", now), time.strftime("%H%M%S", now)
