"""Simulated scans for benchmarks of the desk's tools: of the data folder's volumes, or of drawn phantoms where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.scans import data_root
from export.simulate.pool import write_pool
from export.simulate.volumes import Volume, load_volumes


@dataclass(frozen=True)
class Anatomy:
    """What scans are simulated of.

    Attributes:
        phantom_share: of the scans that show a drawn phantom; all where there are no volumes.
        source: in words.
    """

    volumes: list[Volume]
    phantom_share: float
    source: str


def anatomy(part: str, phantom_share: float) -> Anatomy:
    """The volumes of ``train`` or ``validate`` in the data folder (`benchmarks.scans.data_root`)."""
    folder = data_root() / part
    if not folder.is_dir():
        return Anatomy([], 1.0, "drawn phantoms, as the data folder is missing")
    volumes = load_volumes(folder)
    return Anatomy(volumes, phantom_share, f"{len(volumes)} volumes of {part}")


def write_training_pool(folder: Path, acquisitions: int, seed: int) -> str:
    """Writes a small pool of what a model is trained on; returns in words of what."""
    source = anatomy("train", phantom_share=0.1)
    write_pool(folder, source.volumes, acquisitions, seed, source.phantom_share, _unheard)
    return source.source


def _unheard(done: int, of: int) -> None:
    """Progress of so few is nobody's business."""
