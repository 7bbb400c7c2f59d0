"""Whom a runtime tells what happens: metrics, the audit log, whoever watches a new model. Nobody, where nobody asked.

What is told holds no patient data: no field of a header, no text of a client. An observer that fails is logged, and harms no scan.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples
    from edge_runtime.report import ScanReport
    from edge_runtime.runtime import Model

log = logging.getLogger(__name__)


class Observer:
    """Overrides what it wants to know. Calls come from the threads of sessions and of the pool, which they hold up."""

    def scan_begun(self, scan_id: str, configuration: str, model: Model | None) -> None:
        """A header was accepted; the model is the one that the scan keeps to its end."""

    def readouts_received(self, count: int) -> None:
        """Readouts were taken in."""

    def image_made(self, scan_id: str, record: Mapping[str, Any]) -> None:
        """An image has left; ``record`` is its record in ``report.json`` (docs/report.md)."""

    def slice_done(self, scan_id: str, model: Model | None, samples: SliceSamples, calibration: Calibration) -> None:
        """A slice's images have all left; its arrays are used again when this returns."""

    def failed(self, scan_id: str, model: Model | None, error: Exception) -> None:
        """Something of a scan failed; of a reconstruction also where its other images were made."""

    def scan_ended(self, report: ScanReport, model: Model | None) -> None:
        """A scan that had begun, or a connection that never became one (``model`` is ``None`` then), is over."""

    def degraded(self, scan_id: str, step: str) -> None:
        """A step of degradation was taken: its short name, one of a handful."""

    def deadline_missed(self, scan_id: str, stage: str) -> None:
        """A stage took longer than its budget."""

    def quarantined(self, engine: str, precision: str, why: str) -> None:
        """An engine will not be used any more; ``why`` is of the engine's making, not of a scan's."""

    def model_changed(self, model: Model, before: Model, why: str) -> None:
        """Scans that begin from here on take another model: a swap, or a roll-back."""

    def swap_refused(self, bundle_digest: str, why: str) -> None:
        """A bundle was not taken into use; the digest is empty where its file could not be read."""


def _told(name: str) -> Callable[..., None]:
    told = getattr(Observer, name)

    @functools.wraps(told)
    def tell(self: Observers, *arguments: Any, **named: Any) -> None:
        for observer in self.each:
            try:
                getattr(observer, name)(*arguments, **named)
            except Exception:
                log.exception("%s could not be told of %s", type(observer).__name__, name)

    return tell


class Observers(Observer):
    """Tells several, in the order in which they were added."""

    def __init__(self) -> None:
        self.each: tuple[Observer, ...] = ()

    def add(self, observer: Observer) -> None:
        """Is told of everything from here on."""
        self.each = (*self.each, observer)

    scan_begun = _told("scan_begun")
    readouts_received = _told("readouts_received")
    image_made = _told("image_made")
    slice_done = _told("slice_done")
    failed = _told("failed")
    scan_ended = _told("scan_ended")
    degraded = _told("degraded")
    deadline_missed = _told("deadline_missed")
    quarantined = _told("quarantined")
    model_changed = _told("model_changed")
    swap_refused = _told("swap_refused")
