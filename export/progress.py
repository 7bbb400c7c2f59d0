"""A line every few seconds of long work."""

from __future__ import annotations

import sys
import time
from typing import TextIO

SECONDS = 5.0


class Progress:
    """Call it with how much is done and how much there is."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """Writes to ``stream``, standard output by default."""
        self._what, self._stream, self._shown = what, stream, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._shown > SECONDS or done == total:
            self._shown = time.monotonic()
            print(f"{self._what}: {done} of {total}", file=self._stream or sys.stdout, flush=True)
