"""Evidence that machines read: private elements (group 0021, private creator ``EDGE RUNTIME``).

They are absent where the value is unknown:

=========== == =====================================================================
(0021,xx01) FD held-out residual, RMS, scanner's units after whitening
(0021,xx02) FD fitted residual, likewise
(0021,xx03) FD noise floor, likewise
(0021,xx04) UL number of held-out samples
(0021,xx05) UL number of fitted samples
(0021,xx06) LT where the noise floor comes from
(0021,xx07) FD RMS of the held-out samples themselves, units as above: the residual of an empty image
(0021,xx10) UT JSON: all of the above, method, completeness, key, provenance, notes
(0021,xx11) FD slope that the series began with; see Pixels
=========== == =====================================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from edge_runtime.delivery.fit import LT, printable
from edge_runtime.scan import Completeness, Image, Method, ScanHeader, SliceKey

PRIVATE_GROUP = 0x0021
PRIVATE_CREATOR = "EDGE RUNTIME"
_RECORD, _SERIES_SLOPE = 0x10, 0x11
_SCHEMA = 1


def add_evidence(
    dataset: Dataset, header: ScanHeader, image: Image, shared_slope: float | None, notes: list[str]
) -> None:
    """Private elements of the module's table. Numbers that are not finite are unknown, as JSON has none."""
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    evidence = None if image.evidence is None else dataclasses.asdict(image.evidence)
    if evidence is not None:
        numbers = {0x01: "held_out_residual", 0x02: "fitted_residual", 0x03: "noise_floor", 0x07: "held_out_rms"}
        for element, name in numbers.items():
            evidence[name] = _finite(evidence[name])
            if evidence[name] is not None:
                block.add_new(element, "FD", evidence[name])
        block.add_new(0x04, "UL", evidence["held_out_samples"])
        block.add_new(0x05, "UL", evidence["fitted_samples"])
        if evidence["noise_source"]:
            block.add_new(0x06, "LT", printable(evidence["noise_source"])[:LT])
    record = {
        "schema": _SCHEMA,
        "method": image.method.value,
        "completeness": image.completeness.value,
        "simulated": header.simulated,
        "key": dataclasses.asdict(image.key),
        "measured_share": _finite(image.measured_share),
        "acceleration": _finite(image.acceleration),
        "acquired_at": _finite(image.acquired_at),
        "provenance": dataclasses.asdict(image.provenance),
        "evidence": evidence,
        "notes": notes,
    }
    block.add_new(_RECORD, "UT", json.dumps(record, sort_keys=True, allow_nan=False))
    if shared_slope is not None:
        block.add_new(_SERIES_SLOPE, "FD", shared_slope)


def slope_of_series(dataset: Dataset) -> float | None:
    """The slope that an image's series began with; ``None`` where it does not say, or says what can be none."""
    try:
        slope = float(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[_SERIES_SLOPE].value)
    except (KeyError, TypeError, ValueError):
        return None
    return slope if 0 < slope < math.inf else None


def record_of(dataset: Dataset) -> dict[str, Any] | None:
    """What an image's JSON says; ``None`` where it has none of this runtime."""
    try:
        record = json.loads(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[_RECORD].value)
        if record["schema"] != _SCHEMA:
            return None
        Method(record["method"]), Completeness(record["completeness"])
        SliceKey(**record["key"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return dict(record)


def change_notes(dataset: Dataset, change: Callable[[list[str]], list[str]]) -> None:
    """Changes the notes that an image's JSON holds; leaves alone what has none of this runtime."""
    record = record_of(dataset)
    if record is not None:
        record["notes"] = change(list(record["notes"]))
        block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
        block[_RECORD].value = json.dumps(record, sort_keys=True, allow_nan=False)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
