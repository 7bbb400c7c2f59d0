"""What images of a scan have in common that were made alike: with the scan's header it decides all but a few elements."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.delivery.plane import Plane
from edge_runtime.scan import Completeness, Image, Method, Provenance


@dataclass(frozen=True, slots=True)
class Kind:
    """How an image was made, and whether its place is known.

    Attributes:
        contrast, set: counters that begin another series; the others count images within one.
        placed: the scanner said where the image lies.
    """

    method: Method
    completeness: Completeness
    contrast: int
    set: int
    provenance: Provenance
    placed: bool

    @classmethod
    def of(cls, image: Image, plane: Plane) -> Kind:
        """Of an image that lies in ``plane``."""
        key = image.key
        return cls(image.method, image.completeness, key.contrast, key.set, image.provenance, plane.known)
