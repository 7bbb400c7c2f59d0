"""The quality table: every method on every scan at every acceleration, same masks, same reference.

    python -m benchmarks.quality [--data DIR] [--scans head-2ch,…] [--out FILE] [--pictures DIR] [--without peer]

Methods: zero-filled (root-sum-of-squares of the masked coil images), BART ``pics`` (`benchmarks.peers.bart_pics`), and
ours as `edge_runtime.modalities.mri.offline.reconstruct_scan` returns them. The table shows, over the
seeds of the mask, the median and in brackets the worst.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from benchmarks import scans
from benchmarks.metrics import compare, root_sum_of_squares
from benchmarks.records import Better, Record
from edge_runtime.hil.quality import Quality, scale_to
from edge_runtime.modalities.mri.offline import load_models, reconstruct_scan
from edge_runtime.modalities.mri.sampling import contiguous_centre, effective_acceleration
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import Model
from export.foreground import foreground

Magnitude = npt.NDArray[np.float32]
Settings = dict[str, float | int | str]

ACCELERATIONS = (2, 4, 6)
SEEDS = (0, 1, 2)

ZERO_FILLED = "zero_filled"
FP32, INT8 = "learned FP32", "learned INT8"
PEER = "BART pics"

PEER_IS_TARGET = tuple((scan, acceleration) for scan in ("head-2ch", "fernando", "7B") for acceleration in (2, 4))
"""Scans, by the beginning of their names, and accelerations where the learned image is to be better than the peer's."""

INT8_LOSS_TARGET_DB, INT8_LOSS_TARGET_SSIM = 0.1, 0.002

ERROR_GAIN = 5.0
"""The error maps show the magnitude of the error so many times brighter than the image."""


@dataclass(frozen=True)
class Measurement:
    """One image of one method.

    Attributes:
        scan, origin, shape: the scan, measured or simulated, ``(coils, phase_encodes, samples)``.
        acceleration, effective_acceleration: nominal R; all lines over measured lines.
        acs_lines, seed: contiguous central lines; the mask's seed.
        method: its name in the table.
        nrmse, psnr_db, ssim: see `edge_runtime.hil.quality`; ``psnr_db`` is null for an exact image.
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
    scan: scans.Scan, mask: npt.NDArray[np.bool_], models: Mapping[str, Model], peer: bool, threads: int
) -> tuple[dict[str, Magnitude], dict[str, Settings]]:
    """Magnitude images ``(phase_encodes, samples)`` by method, and the settings of those that were tuned.

    Without models ours are left out but for the zero-filled one; the peer is imported only where it is wanted.
    """
    masked = np.asarray(scan.kspace * mask[:, None], dtype=np.complex64)
    images = {ZERO_FILLED: root_sum_of_squares(scans.coil_images(masked))}
    settings: dict[str, Settings] = {}
    if peer:
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
    images.update(reconstruct_scan(masked, mask, models))
    return images, settings


def measure(
    names: Sequence[str],
    models: Mapping[str, Model],
    peer: bool,
    threads: int,
    *,
    data: Path | None = None,
    pictures: Path | None = None,
    accelerations: Sequence[int] = ACCELERATIONS,
    seeds: Sequence[int] = SEEDS,
) -> list[Measurement]:
    """All measurements, scan by scan; progress goes to standard error."""
    measurements = []
    for name in names:
        scan = scans.load(name, data)
        for acceleration in accelerations:
            for seed in seeds:
                mask = scans.undersampling_mask(scan.kspace.shape[1], acceleration, seed)
                images, settings = reconstruct_all(scan, mask, models, peer, threads)
                qualities = {method: compare(image, scan.reference) for method, image in images.items()}
                measurements += [
                    _measurement(scan, acceleration, seed, mask, method, quality, settings.get(method, {}))
                    for method, quality in qualities.items()
                ]
                if pictures is not None and seed == seeds[0]:
                    draw(pictures / f"{name}-R{acceleration}.png", scan, mask, images, qualities)
            print(f"{name} R = {acceleration} done", file=sys.stderr, flush=True)
    return measurements


def _measurement(
    scan: scans.Scan,
    acceleration: int,
    seed: int,
    mask: npt.NDArray[np.bool_],
    method: str,
    quality: Quality,
    settings: Settings,
) -> Measurement:
    acs = contiguous_centre(mask)
    return Measurement(
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


def markdown(measurements: list[Measurement]) -> str:
    """One row a scan and acceleration; a cell holds NRMSE, PSNR and SSIM: median over seeds, worst in brackets."""
    methods = list(dict.fromkeys(one.method for one in measurements))
    lines = [
        "| scan | R (effective) | ACS lines | "
        + " | ".join(f"{method}: NRMSE, PSNR dB, SSIM" for method in methods)
        + " |",
        "|---|---|---|" + "---|" * len(methods),
    ]
    groups = dict.fromkeys((one.scan, one.acceleration) for one in measurements)
    for scan, acceleration in groups:
        group = [one for one in measurements if (one.scan, one.acceleration) == (scan, acceleration)]
        first = group[0]
        acs = sorted({one.acs_lines for one in group})
        acs_text = str(acs[0]) if len(acs) == 1 else f"{acs[0]} to {acs[-1]}"
        cells = [_cell([one for one in group if one.method == method]) for method in methods]
        scan_text = f"{scan} ({first.origin}, {first.shape[0]} ch)"
        acceleration_text = f"{acceleration} ({_effective(group)})"
        lines.append("| " + " | ".join([scan_text, acceleration_text, acs_text, *cells]) + " |")
    return "\n".join(lines)


def _effective(measurements: Sequence[Measurement]) -> str:
    """The effective accelerations of the masks, in the order of the seeds; equal ones once."""
    return ", ".join(dict.fromkeys(f"{one.effective_acceleration:.2f}" for one in measurements))


def _cell(measurements: list[Measurement]) -> str:
    if not measurements:
        return ""
    nrmse = [one.nrmse for one in measurements]
    psnr = [math.inf if one.psnr_db is None else one.psnr_db for one in measurements]
    ssim = [one.ssim for one in measurements]
    return (
        f"{statistics.median(nrmse):.3f} ({max(nrmse):.3f}), "
        f"{statistics.median(psnr):.1f} ({min(psnr):.1f}), "
        f"{statistics.median(ssim):.3f} ({min(ssim):.3f})"
    )


def quality(quick: bool) -> list[Record]:
    """The table as records for `benchmarks.run`; none where the data folder is missing. ``quick``: one image of each method."""
    root = scans.data_root()
    if not (root / "raw").is_dir():
        print(f"quality: no scans in {root} (set EDGE_DATA): no figures", file=sys.stderr)
        return []
    threads = load_profile(DEFAULT_PROFILE).threads
    peer = importlib.util.find_spec("bartorch") is not None
    last = 1 if quick else None
    measurements = measure(
        scans.names()[:last],
        load_models(),
        peer,
        threads,
        accelerations=ACCELERATIONS[:last],
        seeds=SEEDS[:last],
    )
    return [*records_of(measurements, threads), *int8_loss(measurements, threads)]


def records_of(measurements: Sequence[Measurement], threads: int) -> list[Record]:
    """NRMSE and SSIM of ours by scan, acceleration and method, beside the peer's."""
    records = []
    for (scan, acceleration, method), ours in _grouped(measurements).items():
        if method == PEER:
            continue
        peers = [m for m in measurements if (m.scan, m.acceleration, m.method) == (scan, acceleration, PEER)]
        to_beat = method in (FP32, INT8) and any(
            scan.startswith(name) and acceleration == factor for name, factor in PEER_IS_TARGET
        )
        name = f"quality.{scan}.R{acceleration}.{method.lower().replace(' ', '_')}"
        note = (
            f"{ours[0].origin}, {ours[0].shape[0]} coils, effective R {_effective(ours)}; "
            "median of the masks, p10 and p90 their least and greatest"
        )
        errors, theirs = [m.nrmse for m in ours], [m.nrmse for m in peers]
        records.append(_over_masks(f"{name}.nrmse", errors, theirs, "lower", to_beat, threads, note))
        similarities, theirs = [m.ssim for m in ours], [m.ssim for m in peers]
        records.append(_over_masks(f"{name}.ssim", similarities, theirs, "higher", to_beat, threads, note))
    return records


def int8_loss(measurements: Sequence[Measurement], threads: int) -> list[Record]:
    """What INT8 loses of FP32's PSNR and SSIM on the worst mask of the worst scan; no record where either was not measured."""
    figures: tuple[tuple[str, str, float, Callable[[Measurement], float | None]], ...] = (
        ("PSNR", "dB", INT8_LOSS_TARGET_DB, lambda one: one.psnr_db),
        ("SSIM", "", INT8_LOSS_TARGET_SSIM, lambda one: one.ssim),
    )
    records = []
    for figure, unit, target, value in figures:
        losses = _losses(measurements, value)
        if not losses:
            continue
        worst = max(losses, key=lambda where: max(losses[where]))
        every = [loss for lost in losses.values() for loss in lost]
        low, high = (float(at) for at in np.percentile(every, (10, 90)))
        note = (
            f"{figure} of FP32 less that of INT8; the worst of n images, of {worst}: "
            f"median of its masks {statistics.median(losses[worst]):.{3 if unit else 4}f} {unit}"
        )
        name = f"quality.int8_loss_{(unit or figure).lower()}"
        records.append(
            Record(
                name,
                max(every),
                unit,
                "lower",
                threads=threads,
                n=len(every),
                p10=low,
                p90=high,
                target=target,
                note=note.rstrip(),
            )
        )
    return records


def _losses(
    measurements: Sequence[Measurement], value: Callable[[Measurement], float | None]
) -> dict[str, list[float]]:
    """FP32's value less INT8's on every mask, by scan and acceleration."""
    groups = _grouped(measurements)
    losses: dict[str, list[float]] = {}
    for (scan, acceleration, method), quantized in groups.items():
        full = groups.get((scan, acceleration, FP32), [])
        pairs = [(value(a), value(b)) for a, b in zip(full, quantized)] if method == INT8 else []
        lost = [a - b for a, b in pairs if a is not None and b is not None]
        if lost:
            losses[f"{scan} at R = {acceleration}"] = lost
    return losses


def _grouped(measurements: Sequence[Measurement]) -> dict[tuple[str, int, str], list[Measurement]]:
    """By scan, acceleration and method; in each group by seed, as measured."""
    groups: dict[tuple[str, int, str], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.scan, one.acceleration, one.method), []).append(one)
    return groups


def _over_masks(
    name: str, ours: Sequence[float], peer: Sequence[float], better: Better, to_beat: bool, threads: int, note: str
) -> Record:
    """The peer's median is the target where ours are to be better than it."""
    theirs = statistics.median(peer) if peer else None
    return Record(
        name,
        statistics.median(ours),
        "",
        better,
        PEER,
        theirs,
        threads,
        len(ours),
        min(ours),
        max(ours),
        theirs if to_beat else None,
        note,
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
    measurements = measure(
        names,
        {} if "ours" in options.without else load_models(),
        "peer" not in options.without,
        options.threads,
        data=options.data,
        pictures=options.pictures,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(one) for one in measurements], indent=1) + "\n")
    print(markdown(measurements))
    return 0


if __name__ == "__main__":
    sys.exit(main())
