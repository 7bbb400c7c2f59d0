"""What a terminal shows while a scan is played, and where its images lie."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.hil.player import Event
    from edge_runtime.links.files import Recording


class ProgressLine:
    """Progress on a terminal line that is overwritten; texts and images get lines of their own."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._drawn = 0.0
        self._told: set[str] = set()

    def opened(self, recording: Recording) -> None:
        """Says what is played, and what had to be assumed; a server of ours repeats that, which is not shown again."""
        self._line(f"{recording.path}: {recording.format}, {recording.readout_count} readouts")
        for note in recording.header.notes:
            self._told.add(f"note: {note}")
            self._line(f"  note: {note}")

    def __call__(self, event: Event) -> None:
        from edge_runtime.hil.player import PlayedText, ReadoutsSent, Resumed
        from edge_runtime.links.mrd_pack import parse_meta_attributes
        from edge_runtime.scan import SliceKey

        now = time.monotonic() - self._began
        if isinstance(event, ReadoutsSent):
            if sys.stderr.isatty() and (now - self._drawn > 0.1 or event.sent == event.of):
                self._drawn = now
                print(f"\r{now:6.2f} s  readout {event.sent} of {event.of} ", end="", file=sys.stderr, flush=True)
        elif isinstance(event, Resumed):
            self._line(f"{now:6.2f} s  connected again: goes on with readout {event.durable_through + 1}")
        elif isinstance(event, PlayedText):
            if event.text not in self._told:
                self._line(f"{now:6.2f} s  {event.text}")
        else:
            said = {name: values[0] for name, values in parse_meta_attributes(event.attributes).items() if values}
            words = (said.get("EdgeMethod", "").replace("_", "-"), said.get("EdgeCompleteness", ""), "image")
            share = said.get("EdgeMeasuredShare")
            measured = f", made from {100 * float(share):.0f} % of all phase encodes" if share else ""
            key = SliceKey(**{field.name: int(event.header[field.name]) for field in fields(SliceKey)})
            self._line(f"{now:6.2f} s  {key}: {' '.join(filter(None, words))}{measured}")

    def _line(self, text: str) -> None:
        print(("\r\x1b[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


def series_of(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Folders of the DICOM series in a session's report."""
    return sorted({str(Path(image["dicom"]).parent) for image in images if image["dicom"]})


def print_series(series: list[str]) -> None:
    if series:
        print("DICOM series:", *series, sep="\n  ")
