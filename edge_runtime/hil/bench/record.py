"""What a simulated scanner saw of one scan; a line of JSON between its process and the bench."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_runtime.hil.bench.wire import Key

MOST_TEXTS, MOST_TEXT = 50, 400
"""Texts of a scan that are kept, and characters of each."""


@dataclass(frozen=True, slots=True)
class ImageSeen:
    """One image, when it came and what it was.

    Attributes:
        method, completeness: as the server calls them; ``image`` where it does not, and final once its last readout was due;
            ``early`` where it says final before.
        since_start_s: from the first readout's time to its last byte.
        since_last_readout_s: from the time at which the last readout of its slice was due; negative for a preview.
        digest: SHA-256 of shape, type and pixels, in hexadecimal; the name of the spooled file.
        bundle: digest of the model bundle that made it, "" where the server does not say.
    """

    key: Key
    method: str
    completeness: str
    since_start_s: float
    since_last_readout_s: float
    shape: tuple[int, int, int, int]
    pixel_type: str
    digest: str
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class ScanSeen:
    """One scan, or one attempt at it.

    Attributes:
        scanner, number: which scanner, and which of its scans, from 0; attempts at one scan share the number.
        attempt: from 0; more than one where the connection was cut.
        name: of the protocol's step.
        planned_s, started_s: since the run's beginning: when the first readout was due by the protocol's pace, and when it was
            given that the connection had to stand.
        duration_s: until the server's CLOSE, or whatever ended it.
        readouts, sent: that the scan has, and that the server's end of the connection has taken.
        expected: images that the whole scan should yield of each method.
        lateness_us: of every readout, by which it left late through the scanner's own doing.
        held_up_s: longest time for which the server took nothing.
        overrun_s: by which its answer outlasted the pause after it, or its connection the time for it, so that a scan came late; 0
            where no pause is asked for.
        closed: the server said CLOSE.
        error: why it ended otherwise; "" where it did not.
        texts: from the server.
    """

    scanner: int
    number: int
    attempt: int
    name: str
    planned_s: float
    started_s: float
    duration_s: float
    readouts: int
    sent: int
    expected: tuple[Key, ...]
    images: tuple[ImageSeen, ...]
    lateness_us: tuple[int, ...]
    held_up_s: float
    overrun_s: float
    closed: bool
    error: str
    texts: tuple[str, ...] = field(default=())

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


def parse_line(line: str) -> ScanSeen:
    """A scan from its line; it comes from a process of our own.

    Raises:
        ValueError: it is none.
    """
    try:
        raw: dict[str, Any] = json.loads(line)
        images = tuple(
            ImageSeen(**{**one, "key": Key(*one["key"]), "shape": tuple(one["shape"])}) for one in raw.pop("images")
        )
        expected = tuple(Key(*one) for one in raw.pop("expected"))
        lateness, texts = tuple(raw.pop("lateness_us")), tuple(raw.pop("texts"))
        return ScanSeen(**raw, images=images, expected=expected, lateness_us=lateness, texts=texts)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"not a scan's line: {line[:200]!r}: {error}") from None
