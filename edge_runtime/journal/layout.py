"""What a journal's file holds: an MRD stream, in which text messages of the runtime's own say what has to follow.

A file is a row of groups. Each is a TEXT message (id 5) of `HEAD_BYTES` bytes and, behind it, whole MRD messages::

    05 00  a0 00 00 00  "edge-journal/1 from=scanner group=00000003 bytes=000000526336 readouts=0000000000128
                          body=1c291ca3 head=9b0f43e2" and spaces
    … the messages, byte by byte as the scanner sent them

``readouts`` counts all that the file holds up to the group's end. ``body`` is the CRC-32 of the messages, ``head`` that of the text
before it and of the head before: a group of another file, or of another place in this one, does not pass for the next. (CRC-32 is
that of IEEE 802.3, zlib's.) Any MRD reader takes such a file for what it is, a scan with a few texts in it.

Groups ``from=scanner`` hold what was received. Groups ``from=runtime`` hold texts about it: that an image was made and handed on,
which a restart must not do again.
"""

from __future__ import annotations

import enum
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edge_runtime.links.mrd_messages import MessageId

Buffer: TypeAlias = bytes | bytearray | memoryview

TEXT_BYTES = 160
"""Of the text in a head; always the same, so that a head can be read without knowing what is in it."""

_OPENING = int(MessageId.TEXT).to_bytes(2, "little") + TEXT_BYTES.to_bytes(4, "little")

HEAD_BYTES = len(_OPENING) + TEXT_BYTES

MOST_GROUP_BYTES = 1 << 30
"""Of the messages in one group: more than any message that a link accepts."""

_TEXT = re.compile(
    rb"edge-journal/1 from=(scanner|runtime) group=([0-9]{8}) bytes=([0-9]{12}) readouts=([0-9]{13}) "
    rb"body=([0-9a-f]{8}) head=([0-9a-f]{8}) *"
)


class Origin(enum.Enum):
    """Who wrote the messages of a group."""

    SCANNER = "scanner"
    RUNTIME = "runtime"


class State(enum.Enum):
    """What became of a scan; the value is how its file's name ends."""

    OPEN = ".open"
    FINISHED = ".mrd"
    INCOMPLETE = ".incomplete.mrd"
    DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Head:
    """What is said of a group.

    Attributes:
        number: of the group in its file, from 0.
        size_bytes: of its messages.
        readouts: in the file up to its end.
        body: CRC-32 of its messages.
        chain: CRC-32 of this head, and so of all before it.
    """

    origin: Origin
    number: int
    size_bytes: int
    readouts: int
    body: int
    chain: int


NOTHING_BEFORE = 0
"""``chain`` before a file's first group."""


def pack_head(origin: Origin, number: int, body: Sequence[Buffer], readouts: int, chain: int) -> tuple[bytes, int]:
    """A group's head, and the chain with it.

    Args:
        body: the group's messages, in pieces.
        readouts: in the file up to the group's end.
        chain: of the head before; `NOTHING_BEFORE` for the first.
    """
    size_bytes = crc = 0
    for part in body:
        size_bytes += len(part)
        crc = zlib.crc32(part, crc)
    said = (
        f"edge-journal/1 from={origin.value} group={number:08d} bytes={size_bytes:012d} readouts={readouts:013d} body={crc:08x} "
    ).encode()
    chain = zlib.crc32(said, chain)
    return _OPENING + (said + f"head={chain:08x}".encode()).ljust(TEXT_BYTES), chain


def parse_head(data: Buffer, chain: int | None) -> Head | None:
    """What a head says; None where the bytes are no head, or not the one after that which ended with such a chain.

    Args:
        chain: of the head before; None where nobody knows it.
    """
    data = bytes(data)
    found = _TEXT.fullmatch(data, len(_OPENING))
    if len(data) != HEAD_BYTES or not data.startswith(_OPENING) or found is None:
        return None
    said = data[len(_OPENING) : found.start(6) - len(b"head=")]
    head = Head(
        Origin(found[1].decode()), int(found[2]), int(found[3]), int(found[4]), int(found[5], 16), int(found[6], 16)
    )
    follows = chain is None or zlib.crc32(said, chain) == head.chain
    return head if follows and head.size_bytes <= MOST_GROUP_BYTES else None


def state_of(name: str) -> State | None:
    """What a file's name says of its scan; None where it is no file of a journal."""
    for state in sorted(State, key=lambda state: -len(state.value)):
        if name.endswith(state.value) and len(name) > len(state.value):
            return state
    return None


def scan_of(name: str) -> str:
    """The scan's id, of which a file's name is made.

    Raises:
        ValueError: not a name of a journal's file.
    """
    state = state_of(name)
    if state is None:
        raise ValueError(f"{name!r} is no file of a journal")
    return name.removesuffix(state.value)
