"""Which images a scan has given to the disk and to delivery, so that a restart does not make second ones of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import astuple

from edge_runtime.scan import Completeness, Image, Method

_WORD = "edge-journal: delivered"

Identity = tuple[str, ...]


class Delivered:
    """The images of one scan that are not to be delivered again; from any thread.

    Args:
        write: adds a text to the scan's journal, see `note_of`.
    """

    def __init__(self, write: Callable[[str], None] = lambda text: None) -> None:
        self._known: set[Identity] = set()
        self._write = write
        self._changing = threading.Lock()

    def learn(self, texts: Iterable[str]) -> None:
        """What the journal of an earlier life says."""
        with self._changing:
            self._known.update(identity for text in texts if (identity := _identity_of(text)) is not None)

    def has(self, image: Image) -> bool:
        """Whether it was delivered, in this life of the server or before."""
        return _identity(image) in self._known

    def add(self, image: Image) -> None:
        """It has been."""
        with self._changing:
            self._known.add(_identity(image))
        self._write(note_of(image))


def note_of(image: Image) -> str:
    """The text that stands in a journal for a delivered image."""
    return " ".join((_WORD, *_identity(image)))


def _identity(image: Image) -> Identity:
    return (image.method.value, image.completeness.value, *(str(counter) for counter in astuple(image.key)))


def _identity_of(text: str) -> Identity | None:
    if not text.startswith(_WORD + " "):
        return None
    words = tuple(text[len(_WORD) + 1 :].split(" "))
    methods, kinds = {method.value for method in Method}, {kind.value for kind in Completeness}
    return words if len(words) > 2 and words[0] in methods and words[1] in kinds else None
