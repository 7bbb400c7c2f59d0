"""How long it takes to build images into DICOM files that are on the disk (``delivery.build_100_s``).

The peer is the disk: the same files, whose bytes are known beforehand.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.records import Record, summarise
from edge_runtime.delivery.files import SeriesWriter, write_whole
from edge_runtime.scan import (
    Completeness,
    EncodingSpace,
    Geometry,
    Image,
    Method,
    MriEncoding,
    Provenance,
    ScanHeader,
    SliceKey,
)

IMAGES, SIDE, RUNS = 100, 256, 7


def dicom_build(quick: bool) -> list[Record]:
    """One series of 100 images, each brought to the disk before the next; all in one thread."""
    space = EncodingSpace((SIDE, SIDE, 1), (240.0, 240.0, 5.0))
    header = ScanHeader(encoding=MriEncoding(space, space, "cartesian", {}))
    place = Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (240.0, 240.0, 5.0))
    draw = np.random.default_rng(0)
    made_by = Provenance("benchmark")
    images = [
        Image(
            draw.random((SIDE, SIDE), dtype=np.float32), Method.CLASSICAL, Completeness.FINAL, SliceKey(slice=number), place,
            made_by, 1.0, 1.0, 1.7e9,
        )
        for number in range(IMAGES)
    ]  # fmt: skip
    samples, disk = [], []
    for _ in range(1 if quick else RUNS):
        with tempfile.TemporaryDirectory() as folder:
            writer = SeriesWriter(Path(folder), header, scan_id="benchmark")
            began = time.perf_counter()
            paths = [writer.write(image, number + 1) for number, image in enumerate(images)]
            samples.append(time.perf_counter() - began)
            contents = [path.read_bytes() for path in paths]
            began = time.perf_counter()
            for path, content in zip(paths, contents):
                write_whole(Path(folder) / "again" / path.name, [content])
            disk.append(time.perf_counter() - began)
    note = f"{IMAGES} images of {SIDE}² with a file each, fsync included"
    return [
        summarise(
            "delivery.build_100_s", samples, unit="s", better="lower", peer="writing the same bytes, with fsync",
            peer_samples=disk, target=0.3, note=note,
        )
    ]  # fmt: skip
