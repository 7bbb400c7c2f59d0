"""The files of the objects in the outbox: each is there in full or not at all, and known by its SHA-256.

A file is written under a name that begins with a dot, brought to the disk, and renamed when its row is about to be written; the
folder is brought to the disk before that row is. What a crash left behind has no row, and goes when the outbox is opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_runtime.delivery.outbox.processes import is_running, this_process
from edge_runtime.errors import OutboxError

_PARTIAL = ".partial"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that waits to be named.

    Attributes:
        partial: where it lies.
        sha256: of its content, in hexadecimal.
    """

    partial: Path
    sha256: str
    size_bytes: int


class ObjectFolder:
    """The folder of an outbox's objects.

    Args:
        folder: is made where it is missing; its owner alone may read it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def free_bytes(self) -> int:
        """What is left on its disk for this user."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def take(self, source: Path) -> Taken:
        """A link to a file, or a copy where there can't be one, on the disk.

        Raises:
            OutboxError: it could not be read or written; names path and cause.
        """
        partial = self.folder / f".{this_process()}-{secrets.token_hex(8)}{_PARTIAL}"
        try:
            try:
                os.link(source, partial, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
                shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                digest = _digest(file)
                os.fsync(file.fileno())
                return Taken(partial, digest, os.fstat(file.fileno()).st_size)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutboxError(
                f"{error.filename or source}: not taken into the outbox: {error.strerror or error}"
            ) from error

    def drop(self, taken: Taken) -> None:
        """Forgets a file that was taken."""
        taken.partial.unlink(missing_ok=True)

    def name(self, taken: Taken, name: str) -> None:
        """Gives a file its name; both are on the disk afterwards."""
        os.replace(taken.partial, self.folder / name)
        self._sync()

    def path(self, name: str) -> Path:
        return self.folder / name

    def digest(self, name: str) -> str:
        """SHA-256 of a file as it is now; empty where it can't be read."""
        try:
            with self.path(name).open("rb") as file:
                return _digest(file)
        except OSError:
            return ""

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> int:
        """Removes what has no row, and what processes that are gone did not finish; only while nobody else names files.

        Returns:
            How many files went.
        """
        gone = 0
        for path in self.folder.iterdir():
            partial = path.name.startswith(".") and path.name.endswith(_PARTIAL)
            if path.name in known or (partial and is_running(path.name[1:].split("-")[0])):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                gone += 1
        return gone

    def _sync(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
