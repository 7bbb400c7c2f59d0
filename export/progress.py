"""A line every few seconds of long work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

SECONDS = 5.0


class Progress:
    """Call it with how much is done and how much there is."""

    def __init__(self, what: str, say: Callable[[str], None] = partial(print, flush=True)) -> None:
        """``say`` takes the lines; standard output by default."""
        self._what, self._say, self._shown = what, say, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._shown > SECONDS or done == total:
            self._shown = time.monotonic()
            self._say(f"{self._what}: {done} of {total}")
