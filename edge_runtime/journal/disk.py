"""The few calls to the disk that a journal makes. Tests put a disk in their place that loses power between any two of them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_runtime.errors import JournalError
from edge_runtime.journal.layout import Buffer

OWNER_ONLY = 0o600
"""Raw readouts come with a header that names a patient."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the folder."""

    name: str
    size_bytes: int
    changed_at: float


class JournalFile(Protocol):
    """A file that grows at its end."""

    def append(self, parts: Sequence[Buffer]) -> None:
        """Writes all the parts. On disk they are after `sync`.

        Raises:
            OSError: not all were written.
        """

    def sync(self) -> None:
        """Returns when all that was appended is on disk.

        Raises:
            OSError: nobody knows what of it is. It does not become certain by asking again: the kernel tells of an error once.
        """

    def close(self) -> None: ...


class Reader(Protocol):
    """A folder of journals; names are those of files in it."""

    def entries(self) -> list[Entry]: ...
    def read(self, name: str, offset: int, size_bytes: int) -> bytes: ...


class Disk(Reader, Protocol):
    """One that is written too."""

    def create(self, name: str) -> JournalFile:
        """A new file, whose name is on disk when this returns."""

    def resume(self, name: str, size_bytes: int) -> JournalFile:
        """A file to be gone on with, cut to its sound part first."""

    def forget_copies(self, name: str) -> None:
        """Gives up what the memory holds of a file, but for what no sync was tried of: what is read then is what the medium has."""

    def rename(self, name: str, to: str) -> None:
        """Returns when the new name, which no file has, is on disk.

        Raises:
            FileExistsError: one has.
        """

    def remove(self, name: str) -> None: ...
    def free_bytes(self) -> int: ...


class FolderReader:
    """A folder, beside a server that may write there.

    Raises:
        JournalError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise JournalError(f"journal {folder}: no such folder; name the one of 'serve --journal'")

    def entries(self) -> list[Entry]:
        found = []
        with os.scandir(self.folder) as listing:
            for entry in listing:
                if entry.is_file(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    found.append(Entry(entry.name, facts.st_size, facts.st_mtime))
        return found

    def read(self, name: str, offset: int, size_bytes: int) -> bytes:
        descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(descriptor, size_bytes, offset)
        finally:
            os.close(descriptor)


class RealDisk(FolderReader):
    """A folder; one process at a time.

    Raises:
        JournalError: it can't be made, or another server has it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            super().__init__(folder)
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(
                f"journal {folder}: {error.strerror or error}; name a folder this user may write"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise JournalError(
                f"journal {folder}: another server writes there; give each a folder of its own"
            ) from None

    def close(self) -> None:
        """Lets another server have it."""
        os.close(self._descriptor)

    def create(self, name: str) -> JournalFile:
        descriptor = self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.fsync(self._descriptor)
        return _File(descriptor)

    def resume(self, name: str, size_bytes: int) -> JournalFile:
        descriptor = self._open(name, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError:
            os.close(descriptor)
            raise
        return _File(descriptor)

    def forget_copies(self, name: str) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._descriptor)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def rename(self, name: str, to: str) -> None:
        if (self.folder / to).exists():  # nobody else writes here
            raise FileExistsError(errno.EEXIST, "a file has that name", to)
        os.rename(name, to, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        os.fsync(self._descriptor)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def free_bytes(self) -> int:
        facts = os.fstatvfs(self._descriptor)
        return facts.f_bavail * facts.f_frsize

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ONLY, dir_fd=self._descriptor)


class _File:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, parts: Sequence[Buffer]) -> None:
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        while views:
            written = os.writev(self._descriptor, views)
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
