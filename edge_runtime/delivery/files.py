"""Images on the disk: files that exist in full or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from edge_runtime.delivery.dicom import StoredImage
from edge_runtime.delivery.encoding import ImageEncoder
from edge_runtime.delivery.evidence import slope_of_series
from edge_runtime.delivery.kind import Kind
from edge_runtime.delivery.plane import plane_of
from edge_runtime.delivery.uids import scan_uids, series_uid
from edge_runtime.errors import DeliveryError
from edge_runtime.scan import Image, ScanHeader


class SeriesWriter:
    """Writes the images of one scan as DICOM files.

    Images of one method, completeness, contrast, set, model and known or unknown place make one series, in one folder:
    ``<method>_<completeness>_<end of the series UID>/<SOP Instance UID>.dcm``. A file has its name only when it is
    whole and on disk; one that a power cut left unfinished begins with a dot and ends in ``.partial``. Files are
    readable by their owner only, as they name a patient.

    One writer belongs to one thread.

    Args:
        folder: where the series folders are made; missing parents are created.
        header: of the scan.
        scan_id: any text that is unique to this scan and the same after a restart, such as its journal's name. Without
            it, and without a Study Instance UID and measurement ID in the header, UIDs are stable for the life of this
            writer only.
    """

    def __init__(self, folder: Path, header: ScanHeader, *, scan_id: str = "") -> None:
        self.folder = folder
        self.header = header
        self.uids = scan_uids(header, scan_id)
        self._encoder = ImageEncoder(header, self.uids)
        self._slopes: dict[str, float] = {}  # by series UID

    def write(self, image: Image, instance_number: int) -> Path:
        """Write an image; writing it again replaces the same file.

        Args:
            image: of this writer's scan.
            instance_number: its place in the series, from 1.

        Returns:
            The path of the file, which is on disk in full.

        Raises:
            DeliveryError: the image has no valid pixels, or the file could not be written; names path and cause.
        """
        plane = plane_of(image)
        kind = Kind.of(image, plane)
        series = series_uid(self.uids, kind)
        folder = self.folder / f"{image.method.value}_{image.completeness.value}_{series[-12:]}"
        slope = self._slopes.get(series) or _slope_of_folder(folder)
        stored = StoredImage.of(image, plane, kind, slope)
        if stored.series_slope is not None:
            self._slopes[series] = stored.series_slope
        uid, content = self._encoder.encode(stored, instance_number)
        path = folder / f"{uid}.dcm"
        write_whole(path, content)
        return path


def _slope_of_folder(folder: Path) -> float | None:
    """The slope that a series was begun with before a restart; None where there is no such series."""
    for path in folder.glob("*.dcm"):
        try:
            slope = slope_of_series(dcmread(path, stop_before_pixels=True))
        except (OSError, InvalidDicomError):
            continue  # somebody else's file; at worst brightness is not even across the restart
        if slope is not None:
            return slope
    return None


def write_whole(path: Path, content: Iterable[bytes]) -> None:
    """Write a file that exists in full or not at all, whatever fails meanwhile.

    Raises:
        DeliveryError: names path and cause.
    """
    try:
        new = _make_folder(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        for folder in (path.parent, *new):  # the new names must survive a power cut, too
            _sync_folder(folder)
    except OSError as error:
        raise DeliveryError(f"{path}: could not be written: {error.strerror or error}") from error


def _make_folder(folder: Path) -> list[Path]:
    """Makes a folder and what is missing above it; returns the folders that have a new name in them."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    return [one.parent for one in missing]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
