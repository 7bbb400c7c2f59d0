"""A disk in memory that fails as real ones do: it loses power, fills up, breaks, or takes its time."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_runtime.journal.disk import Entry, JournalFile
from edge_runtime.journal.layout import Buffer

SECTOR_BYTES = 512


@dataclass
class _Content:
    durable: bytearray = field(default_factory=bytearray)
    written: bytearray = field(default_factory=bytearray)  # what a reader sees before the power goes
    believed: int = 0  # bytes that the kernel takes for written, though the medium did not get them


@dataclass
class FailingDisk:
    """Implements `edge_runtime.journal.disk.Disk`.

    Attributes:
        capacity_bytes: after which it is full.
        broken: what every further append or sync fails with.
        gate: appends wait for it.
        power: syncs wait for it, until the power is lost.
        syncing: a sync has begun.
    """

    capacity_bytes: int = 1 << 40
    broken: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    power: threading.Event = field(default_factory=threading.Event)
    syncing: threading.Event = field(default_factory=threading.Event)
    files: dict[str, _Content] = field(default_factory=dict)
    now: float = 1_800_000_000.0
    changed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate.set()
        self.power.set()

    def entries(self) -> list[Entry]:
        return [Entry(name, len(file.written), self.changed[name]) for name, file in self.files.items()]

    def create(self, name: str) -> JournalFile:
        if self.broken:
            raise OSError(self.broken, "broken")
        if name in self.files:
            raise FileExistsError(name)
        self.files[name] = _Content()
        self.changed[name] = self.now
        return _File(self, name)

    def resume(self, name: str, size_bytes: int) -> JournalFile:
        file = self.files[name]
        del file.written[size_bytes:]
        _File(self, name).sync()
        return _File(self, name)

    def forget_copies(self, name: str) -> None:
        file = self.files[name]
        if file.believed:
            file.written = bytearray(file.durable)
            file.believed = 0

    def read(self, name: str, offset: int, size_bytes: int) -> bytes:
        return bytes(self.files[name].written[offset : offset + size_bytes])

    def rename(self, name: str, to: str) -> None:
        if self.broken:
            raise OSError(self.broken, "broken")
        if to in self.files:
            raise FileExistsError(to)
        self.files[to] = self.files.pop(name)
        self.changed[to] = self.changed.pop(name)

    def remove(self, name: str) -> None:
        del self.files[name], self.changed[name]

    def free_bytes(self) -> int:
        return self.capacity_bytes - sum(len(file.written) for file in self.files.values())

    def lose_power(self, survives: Sequence[bool], torn: bytes) -> None:
        """What was not synced survives sector by sector, as ``survives`` says in turn; of the others there is old content or none.

        Args:
            torn: what stands in a sector that did not survive, over and over.
        """
        fate = iter(survives)
        for file in self.files.values():
            end = len(file.durable)
            kept = bytearray(file.durable)
            for begin in range(end, len(file.written), SECTOR_BYTES):
                piece = file.written[begin : begin + SECTOR_BYTES]
                if next(fate, False):
                    kept.extend(b"\0" * (begin - len(kept)) + piece)
                elif torn:
                    kept.extend((torn * (len(piece) // len(torn) + 1))[: len(piece)])
            file.written = kept
            file.durable = bytearray(kept)
            file.believed = 0
        self.broken = errno.EIO  # for who still waits
        self.power.set()


class _File:
    def __init__(self, disk: FailingDisk, name: str) -> None:
        self._disk = disk
        self._file = disk.files[name]

    def append(self, parts: Sequence[Buffer]) -> None:
        self._disk.gate.wait()
        for part in parts:
            if self._disk.broken:
                raise OSError(self._disk.broken, "broken")
            room = self._disk.free_bytes()
            self._file.written += bytes(part)[:room]
            if len(part) > room:
                raise OSError(errno.ENOSPC, "No space left on device")

    def sync(self) -> None:
        self._disk.syncing.set()
        self._disk.power.wait()
        if self._disk.broken:  # told once; from then on the kernel calls those pages clean
            self._file.believed = len(self._file.written)
            raise OSError(self._disk.broken, "broken")
        if not self._file.believed:
            self._file.durable = bytearray(self._file.written)

    def close(self) -> None:
        pass
