"""The quality table: every method on every scan at every acceleration, same masks, same reference.

    python -m benchmarks.quality [--data DIR] [--scans head-2ch,…] [--out FILE] [--pictures DIR] [--without peer]

Methods: zero-filled (root-sum-of-squares of the masked coil images), BART ``pics`` (`benchmarks.peers.bart_pics`), and
ours as `edge_runtime.modalities.mri.offline.reconstruct_scan` returns them. The table shows, over the
seeds of the mask, the median and in brackets the worst.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from benchmarks import scans
from benchmarks.metrics import Quality, compare, foreground, root_sum_of_squares, scale_to
from edge_runtime.modalities.mri.sampling import contiguous_centre, effective_acceleration

Magnitude = npt.NDArray[np.float32]
Settings = dict[str, float | int | str]

ACCELERATIONS = (2, 4, 6)
SEEDS = (0, 1, 2)

ZERO_FILLED = "zero_filled"
PEER = "BART pics"

ERROR_GAIN = 5.0
"""The error maps show the magnitude of the error so many times brighter than the image."""


@dataclass(frozen=True)
class Record:
    """One image of one method.

    Attributes:
        scan, origin, shape: the scan, measured or simulated, ``(coils, phase_encodes, samples)``.
        acceleration, effective_acceleration: nominal R; all lines over measured lines.
        acs_lines, seed: contiguous central lines; the mask's seed.
        method: its name in the table.
        nrmse, psnr_db, ssim: see `benchmarks.metrics`; ``psnr_db`` is null for an exact image.
        settings: what a tuned method chose, else empty; times in seconds.
    """

    scan: str
    origin: str
    shape: tuple[int, ...]
    acceleration: int
    effective_acceleration: float
    acs_lines: int
    seed: int
    method: str
    nrmse: float
    psnr_db: float | None
    ssim: float
    settings: Settings


def reconstruct_all(
    scan: scans.Scan, mask: npt.NDArray[np.bool_], without: Collection[str], threads: int
) -> tuple[dict[str, Magnitude], dict[str, Settings]]:
    """Magnitude images ``(phase_encodes, samples)`` by method, and the settings of those that were tuned.

    The peer and the runtime are imported only where they are wanted, so that either can be measured without the other.
    """
    masked = np.asarray(scan.kspace * mask[:, None], dtype=np.complex64)
    images = {ZERO_FILLED: root_sum_of_squares(scans.coil_images(masked))}
    settings: dict[str, Settings] = {}
    if "peer" not in without:
        from benchmarks.peers import bart_pics

        best = bart_pics.reconstruct_best(masked, mask, scan.reference, threads)
        images[PEER] = best.image
        settings[PEER] = {
            "weight": best.regularisation.weight,
            "wavelet": best.regularisation.wavelet,
            "iterations": best.regularisation.iterations,
            "kernel": "x".join(str(size) for size in best.calibration.kernel),
            "crop": best.calibration.crop,
            "automatic": best.calibration.automatic,
            "seconds": best.seconds,
            "solver_seconds": best.solver_seconds,
            "threads": best.threads,
        }
    if "ours" not in without:
        from edge_runtime.modalities.mri.offline import reconstruct_scan

        images.update(reconstruct_scan(masked, mask))
    return images, settings


def measure(
    names: list[str], data: Path | None, pictures: Path | None, without: Collection[str], threads: int
) -> list[Record]:
    """All records, scan by scan; progress goes to standard error."""
    records = []
    for name in names:
        scan = scans.load(name, data)
        for acceleration in ACCELERATIONS:
            for seed in SEEDS:
                mask = scans.undersampling_mask(scan.kspace.shape[1], acceleration, seed)
                images, settings = reconstruct_all(scan, mask, without, threads)
                qualities = {method: compare(image, scan.reference) for method, image in images.items()}
                records += [
                    _record(scan, acceleration, seed, mask, method, quality, settings.get(method, {}))
                    for method, quality in qualities.items()
                ]
                if pictures is not None and seed == SEEDS[0]:
                    draw(pictures / f"{name}-R{acceleration}.png", scan, mask, images, qualities)
            print(f"{name} R = {acceleration} done", file=sys.stderr, flush=True)
    return records


def _record(
    scan: scans.Scan,
    acceleration: int,
    seed: int,
    mask: npt.NDArray[np.bool_],
    method: str,
    quality: Quality,
    settings: Settings,
) -> Record:
    acs = contiguous_centre(mask)
    return Record(
        scan=scan.name,
        origin=scan.origin,
        shape=scan.kspace.shape,
        acceleration=acceleration,
        effective_acceleration=effective_acceleration(mask),
        acs_lines=acs.stop - acs.start,
        seed=seed,
        method=method,
        nrmse=quality.nrmse,
        psnr_db=quality.psnr_db if math.isfinite(quality.psnr_db) else None,
        ssim=quality.ssim,
        settings=settings,
    )


def markdown(records: list[Record]) -> str:
    """One row a scan and acceleration; a cell holds NRMSE, PSNR and SSIM: median over seeds, worst in brackets."""
    methods = list(dict.fromkeys(record.method for record in records))
    lines = [
        "| scan | R (effective) | ACS lines | "
        + " | ".join(f"{method}: NRMSE, PSNR dB, SSIM" for method in methods)
        + " |",
        "|---|---|---|" + "---|" * len(methods),
    ]
    groups = dict.fromkeys((record.scan, record.acceleration) for record in records)
    for scan, acceleration in groups:
        group = [record for record in records if (record.scan, record.acceleration) == (scan, acceleration)]
        first = group[0]
        acs = sorted({record.acs_lines for record in group})
        acs_text = str(acs[0]) if len(acs) == 1 else f"{acs[0]} to {acs[-1]}"
        cells = [_cell([record for record in group if record.method == method]) for method in methods]
        scan_text = f"{scan} ({first.origin}, {first.shape[0]} ch)"
        acceleration_text = f"{acceleration} ({first.effective_acceleration:.2f})"
        lines.append("| " + " | ".join([scan_text, acceleration_text, acs_text, *cells]) + " |")
    return "\n".join(lines)


def _cell(records: list[Record]) -> str:
    if not records:
        return ""
    nrmse = [record.nrmse for record in records]
    psnr = [math.inf if record.psnr_db is None else record.psnr_db for record in records]
    ssim = [record.ssim for record in records]
    return (
        f"{statistics.median(nrmse):.3f} ({max(nrmse):.3f}), "
        f"{statistics.median(psnr):.1f} ({min(psnr):.1f}), "
        f"{statistics.median(ssim):.3f} ({min(ssim):.3f})"
    )


def draw(
    path: Path,
    scan: scans.Scan,
    mask: npt.NDArray[np.bool_],
    images: dict[str, Magnitude],
    qualities: dict[str, Quality],
) -> None:
    """Writes a PNG: reference and every method's image above; foreground edge and every error map below."""
    reference = scan.reference
    where = foreground(reference)
    bright = float(np.percentile(reference[where], 99.5))
    figure, axes = plt.subplots(2, 1 + len(images), figsize=(4 * (1 + len(images)), 8.4), squeeze=False)
    axes[0, 0].imshow(reference, cmap="gray", vmin=0, vmax=bright)
    axes[0, 0].set_title(f"{scan.name}, {scan.origin}: reference")
    sampled = np.repeat(mask[:, None], reference.shape[1], axis=1)
    axes[1, 0].imshow(sampled, cmap="gray", vmin=0, vmax=1)
    axes[1, 0].contour(where, levels=[0.5], colors="tab:orange", linewidths=0.8)
    axes[1, 0].set_title(f"lines (R {effective_acceleration(mask):.2f}), foreground's edge")
    for column, (method, image) in enumerate(images.items(), start=1):
        quality = qualities[method]
        scaled = scale_to(image, reference, where) * image
        axes[0, column].imshow(scaled, cmap="gray", vmin=0, vmax=bright)
        axes[0, column].set_title(
            f"{method}: NRMSE {quality.nrmse:.3f}, {quality.psnr_db:.1f} dB, SSIM {quality.ssim:.3f}", fontsize=9
        )
        axes[1, column].imshow(np.abs(scaled - reference), cmap="magma", vmin=0, vmax=bright / ERROR_GAIN)
        axes[1, column].set_title(f"error x {ERROR_GAIN:g}", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data folder; else EDGE_DATA, else ../shared/data")
    parser.add_argument("--scans", default=",".join(scans.names()), help="comma-separated names; all: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/quality.json"))
    parser.add_argument("--pictures", type=Path, help="folder for one PNG a scan and acceleration")
    parser.add_argument(
        "--without", choices=["peer", "ours"], action="append", default=[], help="leave out; may be repeated"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="BART's threads (%(default)s)")
    options = parser.parse_args(arguments)
    names = options.scans.split(",")
    unknown = sorted(set(names) - set(scans.names()))
    if unknown:
        parser.error(f"no scan {', '.join(unknown)}; there are {', '.join(scans.names())}")
    records = measure(names, options.data, options.pictures, options.without, options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
    print(markdown(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
