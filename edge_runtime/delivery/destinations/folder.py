"""A folder or a medium, such as a USB stick: files that are there in full or not at all, and are read back.

Without a DICOMDIR every object has its place, ``<study>/<series>/<SOP Instance UID>.dcm``. With one, each delivery becomes a
file-set of its own (PS3.10, `pydicom.fileset`), a folder ``SET…`` that gets its name when it is whole: a power cut leaves no half.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.fileset import FileSet

from edge_runtime.delivery.configuration import Destination, FolderPeer
from edge_runtime.delivery.destinations.courier import Settle
from edge_runtime.delivery.outbox.store import Delivery, Failed, Sent, Untried
from edge_runtime.errors import DestinationError, NotAdmitted, Unreachable

_CHUNK = 1 << 20


class FolderCourier:
    """Takes objects to one folder."""

    def __init__(self, destination: Destination) -> None:
        if not isinstance(destination.peer, FolderPeer):
            raise TypeError(destination.name)
        self._peer = destination.peer

    def send(self, objects: Iterator[Delivery], kinds: Collection[tuple[str, str]], settle: Settle) -> None:
        """See `courier.Courier`."""
        del kinds
        self.check()
        if self._peer.dicomdir:
            self._send_set(list(objects), settle)
            return
        for delivery in objects:
            identity = delivery.identity
            target = self._peer.path / identity.study_uid / identity.series_uid / f"{identity.sop_instance_uid}.dcm"
            try:
                if _digest(target) != delivery.sha256:
                    _write(delivery, target)
                    _sync_folders(target.parent, self._peer.path)
                read = _digest(target)
            except OSError as error:
                settle(delivery, Untried())
                raise _unwritable(self._peer.path, error) from None
            if read == delivery.sha256:
                settle(delivery, Sent(kept=True))
            else:
                settle(delivery, Failed(f"{target}: reads back other than it was written: is the medium worn out?"))

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        """See `courier.Courier`: everything was read back when it was written."""
        return {one.id: True for one in objects}

    def check(self) -> None:
        """Shows that the folder is there and can be written to.

        Raises:
            Unreachable: it is not.
            NotAdmitted: it can't be.
        """
        path = self._peer.path
        if not path.is_dir():
            raise Unreachable(f"{path}: there is no such folder: is the medium in?")
        if self._peer.mounted and not os.path.ismount(path):
            raise Unreachable(f"{path}: no medium is mounted there")
        probe = path / f".{secrets.token_hex(8)}.partial"
        try:
            with probe.open("xb") as file:
                file.write(b"\0")
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(path, error) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def _send_set(self, objects: list[Delivery], settle: Settle) -> None:
        present = self._present()
        objects = [one for one in objects if self._has_a_record(one, settle)]
        new = [one for one in objects if present.get(one.identity.sop_instance_uid) != one.sha256]
        partial = self._peer.path / f".{secrets.token_hex(8)}.partial"
        try:
            for left in self._peer.path.glob(".*.partial"):
                shutil.rmtree(left, ignore_errors=True)
            if new:
                files = FileSet()
                for one in new:
                    assert one.path is not None
                    files.add(one.path)
                partial.mkdir()
                files.write(partial)
                for path in sorted(partial.rglob("*")):
                    _sync(path)
                read = {
                    str(instance.SOPInstanceUID): _digest(Path(instance.path))
                    for instance in FileSet(partial / "DICOMDIR")
                }
                wrong = [one for one in new if read.get(one.identity.sop_instance_uid) != one.sha256]
                if wrong:
                    raise OSError(f"{len(wrong)} objects read back other than they were written")
                os.replace(partial, self._peer.path / self._next_name())
                _sync(self._peer.path)
        except (OSError, ValueError, AttributeError, InvalidDicomError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            for one in objects:
                settle(one, Untried())
            if isinstance(error, OSError):
                raise _unwritable(self._peer.path, error) from None
            raise NotAdmitted(f"{self._peer.path}: no DICOMDIR can be made of these objects: {error}") from None
        for one in objects:
            settle(one, Sent(kept=True))

    def _has_a_record(self, delivery: Delivery, settle: Settle) -> bool:
        """Whether an object can be in a DICOMDIR; one that can't must not keep the others from the medium."""
        assert delivery.path is not None
        try:
            FileSet().add(delivery.path)
        except (ValueError, AttributeError, InvalidDicomError, NotImplementedError) as error:
            settle(delivery, Failed(f"{self._peer.path}: a DICOMDIR can't name it: {error}", final=True))
            return False
        return True

    def _present(self) -> dict[str, str]:
        """SHA-256 of what the file-sets of the medium hold, by SOP Instance UID."""
        present = {}
        for directory in sorted(self._peer.path.glob("SET*/DICOMDIR")):
            with contextlib.suppress(OSError, ValueError, AttributeError, InvalidDicomError):
                for instance in FileSet(directory):
                    present[str(instance.SOPInstanceUID)] = _digest(Path(instance.path))
        return present

    def _next_name(self) -> str:
        taken = [int(p.name[3:]) for p in self._peer.path.glob("SET[0-9][0-9][0-9][0-9][0-9]")]
        return f"SET{max(taken, default=0) + 1:05d}"


def _write(delivery: Delivery, target: Path) -> None:
    assert delivery.path is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{secrets.token_hex(8)}.partial"
    try:
        with delivery.path.open("rb") as source, partial.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _sync_folders(folder: Path, top: Path) -> None:
    """Brings the names in a folder, and of it, up to ``top`` to the disk."""
    while True:
        _sync(folder)
        if folder == top or folder == folder.parent:
            return
        folder = folder.parent


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    """SHA-256 of a file as the medium has it, not the memory; empty where there is no file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _unwritable(path: Path, error: OSError) -> DestinationError:
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NotAdmitted(f"{path}: can't be written to ({reason}): is it for this user, is the medium locked?")
    return Unreachable(f"{path}: can't be written to ({reason})")
