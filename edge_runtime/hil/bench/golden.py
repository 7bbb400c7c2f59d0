"""Images under load against the golden result: what the same server made of the same scan alone, before."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.record import ImageSeen, ScanSeen
from edge_runtime.hil.bench.scanner import FINAL, UNNAMED
from edge_runtime.hil.bench.wire import PIXEL_TYPES, Key

Place = tuple[str, str, Key]
"""Which image: the protocol's step, the method and the counters."""

MOST_PIXELS = 1 << 28


@dataclass(frozen=True, slots=True)
class Picture:
    """Where an image's pixels are, and what they are."""

    digest: str
    shape: tuple[int, int, int, int]
    pixel_type: str
    folder: Path

    def pixels(self) -> npt.NDArray[Any]:
        """``(channels, z, y, x)``."""
        data = (self.folder / f"{self.digest}.pixels").read_bytes()
        return np.frombuffer(data, self.pixel_type).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Difference:
    """Of an image from the golden one.

    Attributes:
        nrmse: root of the squared difference over the root of the squared golden image.
        largest: difference of a pixel over the golden image's largest.
    """

    nrmse: float
    largest: float


SAME = Difference(0.0, 0.0)
OTHER_SHAPE = Difference(float("inf"), float("inf"))


class Golden:
    """The golden images, and the comparison with them; each pair is compared once.

    Args:
        pictures: by place.
    """

    def __init__(self, pictures: dict[Place, Picture]) -> None:
        self.pictures = pictures
        self._known: dict[tuple[str, str], Difference] = {}

    def difference(self, place: Place, image: ImageSeen, folder: Path) -> Difference | None:
        """None where there is no golden image of that place."""
        golden = self.pictures.get(place)
        if golden is None:
            return None
        if golden.digest == image.digest:
            return SAME
        pair = (golden.digest, image.digest)
        if pair not in self._known:
            self._known[pair] = _difference(Picture(image.digest, image.shape, image.pixel_type, folder), golden)
        return self._known[pair]

    def lacking(self, places: Iterable[Place]) -> list[Place]:
        """Those of the places that have no golden image; where the server names no methods, of any method."""
        named = any(method != UNNAMED for _, method, _ in self.pictures)
        asked = [(step, method if named else UNNAMED, key) for step, method, key in places]
        return [place for place in asked if place not in self.pictures]

    def write(self, folder: Path) -> None:
        """Keeps them in a folder, for other runs and other devices."""
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for (step, method, key), picture in self.pictures.items():
            (folder / f"{picture.digest}.pixels").write_bytes(picture.pixels().tobytes())
            entry = {"step": step, "method": method, "key": list(key), "digest": picture.digest}
            entries.append({**entry, "shape": list(picture.shape), "pixel_type": picture.pixel_type})
        (folder / "golden.json").write_text(
            json.dumps({"format": 1, "images": entries}, indent=2) + "\n", encoding="utf-8"
        )


def golden_of(scans: Iterable[ScanSeen], folder: Path) -> Golden:
    """The first final images of scans that were played alone."""
    pictures: dict[Place, Picture] = {}
    for scan in scans:
        for image in scan.images:
            if image.completeness == FINAL:
                picture = Picture(image.digest, image.shape, image.pixel_type, folder)
                pictures.setdefault((scan.name, image.method, image.key), picture)
    return Golden(pictures)


def read_golden(folder: Path) -> Golden:
    """What `Golden.write` has written, here or on another device.

    Raises:
        BenchError: it is damaged, or no such folder.
    """
    path = folder / "golden.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        pictures: dict[Place, Picture] = {}
        for entry in document["images"]:
            digest, shape, pixel_type = str(entry["digest"]), tuple(entry["shape"]), str(entry["pixel_type"])
            sound = len(shape) == 4 and all(isinstance(side, int) and side > 0 for side in shape)
            if (
                pixel_type not in PIXEL_TYPES.values()
                or not sound
                or not digest.isalnum()
                or np.prod(shape) > MOST_PIXELS
            ):
                raise ValueError(f"image {digest[:80]!r} of shape {shape} and type {pixel_type!r}")
            picture = Picture(digest, shape, pixel_type, folder)
            picture.pixels()
            pictures[str(entry["step"]), str(entry["method"]), Key(*map(int, entry["key"]))] = picture
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchError(f"{path}: no golden images of a bench: {error}") from None
    return Golden(pictures)


def _difference(picture: Picture, golden: Picture) -> Difference:
    if picture.shape != golden.shape:
        return OTHER_SHAPE
    wanted, came = (one.pixels().astype(np.complex128) for one in (golden, picture))
    apart = np.abs(came - wanted)
    power, peak = float(np.sum(np.abs(wanted) ** 2)), float(np.abs(wanted).max())
    if power == 0 or not np.isfinite(apart).all():
        return OTHER_SHAPE
    return Difference(float(np.sqrt(np.sum(apart**2) / power)), float(apart.max()) / peak)
