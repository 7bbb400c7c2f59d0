"""What the acquisitions of a pool were made of: written before the first of them, so that no other is ever put beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from export.remembered import OtherInputs, differences
from export.simulate.volumes import Volume

RECORD = "pool.json"
MOST = 1_000_000
"""Acquisitions of a pool (`export.config.PoolConfig`)."""


@dataclass(frozen=True)
class PoolRecord:
    """A pool's file `RECORD`.

    Attributes:
        made_of: all that an acquisition hangs on, by what it is: volumes, seed, share of phantoms, code, versions of libraries.
        count: how many acquisitions the pool has; files of higher numbers, of an earlier and larger pool, are none of it.
    """

    made_of: Mapping[str, str]
    count: int

    def digest(self) -> str:
        """SHA-256, hexadecimal: equal where all acquisitions are."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def begin_pool(folder: Path, record: PoolRecord) -> None:
    """Creates the folder, or goes on with it where its acquisitions are made of the same; the count may be another.

    Raises:
        OtherInputs: it holds acquisitions that were made of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if next(folder.glob("*.npy"), None) is not None:
        before = read_record(folder).made_of
        if before != record.made_of:
            raise OtherInputs(
                f"{folder}: its acquisitions were made of another {differences(before, record.made_of)}: remove it, or choose "
                "another --work"
            )
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    partial.rename(folder / RECORD)


def read_record(folder: Path) -> PoolRecord:
    """What a pool says of itself.

    Raises:
        OtherInputs: it does not, or not in these terms.
    """
    path = folder / RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        made_of, count = document["made_of"], document["count"]
        sound = all(isinstance(text, str) for text in made_of.values()) and type(count) is int and 1 <= count <= MOST
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise OtherInputs(
            f"{path}: does not say what the pool's acquisitions were made of, so that they can't be used: remove {folder} and run "
            "edge-export pool"
        )
    return PoolRecord(made_of, count)


def volumes_digest(volumes: Sequence[Volume]) -> str:
    """SHA-256 over all of the volumes that draws hang on, in their order; names are no part of it."""
    digest = hashlib.sha256()
    for volume in volumes:
        about = (volume.voxels.shape, volume.voxels.dtype.str, volume.slice_axes, volume.pixel_aspect)
        digest.update(repr(about).encode() + b"\0")
        digest.update(volume.voxels.tobytes())
    return digest.hexdigest()
