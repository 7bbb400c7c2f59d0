"""Reading a journal's file back: how far it is sound, and the messages in it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from edge_runtime.journal.disk import Reader
from edge_runtime.journal.layout import HEAD_BYTES, NOTHING_BEFORE, TEXT_BYTES, Head, Origin, parse_head

READ_BYTES = 1 << 20
"""At a time; a file may be larger than the memory."""

_ANY_HEAD = b"\x05\x00" + TEXT_BYTES.to_bytes(4, "little") + b"edge-journal/1 from="


@dataclass(frozen=True, slots=True)
class Group:
    """Where a sound group lies.

    Attributes:
        offset: of its messages, behind its head.
    """

    head: Head
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a file holds.

    Attributes:
        sound_bytes: from its start, all of whose checksums agree.
        torn_bytes: after them, which a crash or a power cut left; they were never acknowledged.
        damage: where something that had been on disk is no longer what it was; empty where nothing is. What lies behind it is not
            in ``groups``.
    """

    name: str
    groups: tuple[Group, ...] = field(repr=False)
    sound_bytes: int
    torn_bytes: int
    damage: str

    @property
    def readouts(self) -> int:
        """That are sound."""
        return self.groups[-1].head.readouts if self.groups else 0

    @property
    def chain(self) -> int:
        """That the next group follows."""
        return self.groups[-1].head.chain if self.groups else NOTHING_BEFORE


def read_record(disk: Reader, name: str, size_bytes: int, most_groups: int | None = None) -> Record:
    """Follows a file from its start to the first group that is not whole.

    Args:
        most_groups: how many are looked at; nothing is said of what lies behind them. None for all.

    Only the last group of a file can be unfinished, since each is on disk before the next is begun. Where sound groups follow one
    that is not, the disk has lost what it had promised to keep.

    Raises:
        OSError: it can't be read.
    """
    groups: list[Group] = []
    offset, chain = 0, NOTHING_BEFORE
    while offset < size_bytes:
        if len(groups) == most_groups:
            return Record(name, tuple(groups), offset, 0, "")
        head = parse_head(disk.read(name, offset, HEAD_BYTES), chain)
        begin = offset + HEAD_BYTES
        if head is None or head.number != len(groups) or not _is_whole(disk, name, begin, head):
            break
        groups.append(Group(head, begin))
        offset, chain = begin + head.size_bytes, head.chain
    damage = ""
    if offset < size_bytes and _goes_on(disk, name, offset + 1, size_bytes, len(groups)):
        readouts = groups[-1].head.readouts if groups else 0
        damage = f"group {len(groups)} at byte {offset}, after {readouts} readouts, is not what was written; later ones exist"
    return Record(name, tuple(groups), offset, size_bytes - offset, damage)


TAIL_BYTES = 64 << 10
"""At the end of a closed file, where its last head is."""


def readouts_at_end(disk: Reader, name: str, size_bytes: int) -> int:
    """How many readouts a closed file holds, by its last head; by all of it where that is not near the end.

    Raises:
        OSError: it can't be read.
    """
    begin = max(0, size_bytes - TAIL_BYTES)
    tail = disk.read(name, begin, size_bytes - begin)
    place = tail.rfind(_ANY_HEAD)
    head = parse_head(tail[place : place + HEAD_BYTES], None) if place >= 0 else None
    if head is not None and place + HEAD_BYTES + head.size_bytes == len(tail):
        return head.readouts
    return read_record(disk, name, size_bytes).readouts


def _is_whole(disk: Reader, name: str, offset: int, head: Head) -> bool:
    crc, left = 0, head.size_bytes
    while left:
        data = disk.read(name, offset + head.size_bytes - left, min(left, READ_BYTES))
        if not data:
            return False
        crc, left = zlib.crc32(data, crc), left - len(data)
    return crc == head.body


def _goes_on(disk: Reader, name: str, offset: int, size_bytes: int, number: int) -> bool:
    """Whether a whole group of a higher number lies behind. What merely begins like one may be what the disk held before."""
    while offset < size_bytes:
        data = disk.read(name, offset, READ_BYTES + HEAD_BYTES)
        if not data:
            return False
        place = data.find(_ANY_HEAD)
        while 0 <= place < READ_BYTES:
            head = parse_head(data[place : place + HEAD_BYTES], None)
            if head is not None and head.number > number and _is_whole(disk, name, offset + place + HEAD_BYTES, head):
                return True
            place = data.find(_ANY_HEAD, place + 1)
        offset += READ_BYTES
    return False


class Replayed:
    """The sound messages of a file, as a stream of bytes.

    Args:
        origin: whose messages.
    """

    def __init__(self, disk: Reader, record: Record, origin: Origin = Origin.SCANNER) -> None:
        self._disk = disk
        self._name = record.name
        self._groups = iter([group for group in record.groups if group.head.origin is origin])
        self._offset = self._left = 0

    def receive_into(self, buffer: memoryview) -> int:
        """Fills the start of a buffer and returns how many bytes it wrote; 0 at the end.

        Raises:
            OSError: the file can't be read any more.
        """
        while not self._left:
            group = next(self._groups, None)
            if group is None:
                return 0
            self._offset, self._left = group.offset, group.head.size_bytes
        data = self._disk.read(self._name, self._offset, min(self._left, len(buffer), READ_BYTES))
        if not data:
            raise OSError(5, f"{self._name} became shorter while it was read")
        buffer[: len(data)] = data
        self._offset += len(data)
        self._left -= len(data)
        return len(data)
