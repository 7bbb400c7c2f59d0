"""The native kernels beside array libraries that solve the same problem, and beside what the machine could do at best.

Every peer may lay its arrays out as suits it best, and its fastest form counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.fft
import torch

from benchmarks.brain_phantom import phantom
from benchmarks.records import Record, summarise
from edge_runtime.kernels import IngestPlan, Plans, SensePlan, VolumeSensePlan, Workers, instruction_set
from edge_runtime.modalities.mri.coils import estimate_sensitivities
from edge_runtime.modalities.mri.fourier import centre_slice
from edge_runtime.modalities.mri.sampling import contiguous_centre
from export.simulate.receive import complex_noise

COILS, LINES, COLUMNS = 8, 256, 256
SLICE = COILS, LINES, COLUMNS
VOLUME = COILS, 64, 128, 32
"""``(coils, partitions, phase_encodes, columns)``: a slab of readout planes."""
ACCELERATION = 4
READOUTS, SAMPLES = 128, 512
THREADS = (1, 2)
RUNS = 40

REST_S = 0.06
"""Threads of OpenMP, and for 40 ms those of ONNX Runtime as it comes, go on spinning after their work and keep a core from whoever
is next."""

SPEEDUP_WANTED = 3.0
MOST_OF_ROOFLINE = 2.0


def kernels(quick: bool) -> list[Record]:
    """Data consistency, ingest and sensitivities with one thread and with two; contestants take turns."""
    runs = 3 if quick else RUNS
    records = []
    for threads in THREADS:
        for name, shape in (("data_consistency", SLICE), ("data_consistency_3d", VOLUME)):
            records += _data_consistency(name, shape, threads, runs)
        records += [_ingest(threads, runs), _sensitivities(threads, runs)]
    return records


def _data_consistency(name: str, shape: tuple[int, ...], threads: int, runs: int) -> list[Record]:
    """``Σ Sᴴ Fᴴ M (F S x - y)``, the Fourier transform along all axes between coils and columns."""
    coils, *fourier, columns = shape
    points = math.prod(fourier)  # of a column
    rng = np.random.default_rng(0)
    maps = complex_noise(shape, rng) / np.float32(math.sqrt(coils))
    measured = np.zeros((points, columns), np.bool_)
    measured[rng.choice(points, points // ACCELERATION, replace=False)] = True
    mask = measured.reshape(shape[1:])
    samples = complex_noise(shape, rng) * mask
    image = complex_noise(shape[1:], rng)
    plan = (SensePlan if len(fourier) == 1 else VolumeSensePlan)(Workers(threads), *shape)
    plan.set_maps(maps)
    plan.set_samples(samples, mask)
    out = np.empty_like(image)

    contestants = {"ours": lambda: plan.gradient(image, out), **_peers(maps, mask, samples, image, threads)}
    _agree(contestants)
    times = in_turns(contestants, runs)
    best = min((peer for peer in times if peer != "ours"), key=lambda peer: float(np.median(times[peer])))
    ours = times["ours"]
    note = (
        f"{coils} coils x {' x '.join(map(str, shape[1:]))} complex64, Fourier axes: all but the columns, {instruction_set()}; "
        "peers' medians: " + ", ".join(f"{peer} {np.median(times[peer]):.2f} ms" for peer in times if peer != "ours")
    )
    suffix = "" if threads == 1 else f".{threads}_threads"
    figures = [
        summarise(
            f"kernels.{name}_ms{suffix}",
            ours,
            unit="ms",
            better="lower",
            peer=best,
            peer_samples=times[best],
            threads=threads,
            target=float(np.median(times[best])) / SPEEDUP_WANTED,
            note=note,
        )
    ]
    moved = 8 * (coils + 3) * points * columns + 4 * points * columns  # maps, image, Aᴴ y, result; the mask
    operations = coils * columns * (2 * 5 * points * math.log2(points) + 16 * points)
    copy_rate, sgemm_rate = _machine(threads)
    at_best_ms = 1e3 * max(moved / copy_rate, operations / sgemm_rate)
    figures.append(
        summarise(
            f"kernels.{name}.roofline_ratio{suffix}",
            [ms / at_best_ms for ms in ours],
            unit="",
            better="lower",
            threads=threads,
            target=MOST_OF_ROOFLINE,
            note=f"{moved / 1e6:.1f} MB must move, a copy moves {copy_rate / 1e9:.0f} GB/s; {operations / 1e6:.0f} MFLOP, sgemm "
            f"does {sgemm_rate / 1e9:.0f} GFLOP/s: {at_best_ms:.2f} ms at best",
        )
    )
    return figures


def _peers(maps: Any, mask: Any, samples: Any, image: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """By scipy.fft and torch, with the columns on the last axis as ours and before the Fourier axes."""
    count = image.ndim - 1  # of Fourier axes
    # A shift of k-space and image leaves the work the same: every transform below is uncentred on shifted arrays.
    shifted = [np.fft.ifftshift(array, axes=range(-1 - count, -1)) for array in (maps, mask, samples, image)]
    turned = [np.ascontiguousarray(np.moveaxis(array, -1, -1 - count)) for array in shifted]
    peers: dict[str, Callable[[], Any]] = {}
    for layout, arrays, first in (("", shifted, 1), (", phase encodes last", turned, 2)):
        axes = tuple(range(first, first + count))
        peers[f"scipy.fft{layout}"] = _scipy_form(arrays, axes, threads)
        peers[f"torch{layout}"] = _torch_form([torch.from_numpy(array) for array in arrays], axes, threads)
    return peers


def _scipy_form(arrays: list[Any], axes: tuple[int, ...], threads: int) -> Callable[[], Any]:
    maps, mask, samples, image = arrays
    conjugate, counts = maps.conj(), mask.astype(np.float32)

    def run() -> Any:
        spectrum = scipy.fft.fftn(maps * image, axes=axes, norm="ortho", workers=threads, overwrite_x=True)
        spectrum -= samples
        spectrum *= counts
        coil_images = scipy.fft.ifftn(spectrum, axes=axes, norm="ortho", workers=threads, overwrite_x=True)
        coil_images *= conjugate
        return _back(coil_images.sum(axis=0), axes)

    return run


def _torch_form(arrays: list[Any], axes: tuple[int, ...], threads: int) -> Callable[[], Any]:
    maps, mask, samples, image = arrays
    conjugate, counts = maps.conj().resolve_conj(), mask.float()

    def run() -> Any:
        torch.set_num_threads(threads)
        spectrum = torch.fft.fftn(maps * image, dim=axes, norm="ortho")
        spectrum.sub_(samples).mul_(counts)
        coil_images = torch.fft.ifftn(spectrum, dim=axes, norm="ortho").mul_(conjugate)
        return _back(coil_images.sum(0).numpy(), axes)

    return run


def _back(image: Any, axes: tuple[int, ...]) -> Any:
    """A view in the order of ours, for the comparison of results; costs nothing while timed."""
    return image if axes[0] == 1 else np.moveaxis(image, 0, -1)


def _agree(contestants: Mapping[str, Callable[[], Any]]) -> None:
    ours = contestants["ours"]()
    for name, run in contestants.items():
        theirs = ours if name == "ours" else np.fft.fftshift(run(), axes=range(ours.ndim - 1))
        if np.abs(ours - theirs).max() > 1e-4 * np.abs(ours).max():
            raise RuntimeError(f"{name} solves another problem")


def _ingest(threads: int, runs: int) -> Record:
    """Readouts of 512 samples to 256 columns: transform, crop, placement."""
    rng = np.random.default_rng(0)
    samples = complex_noise((READOUTS, COILS, SAMPLES), rng)
    lines = rng.permutation(READOUTS)
    out = np.empty((READOUTS, COILS, COLUMNS), np.complex64)
    plan = IngestPlan(Workers(threads), COILS, SAMPLES, COLUMNS)
    kept = centre_slice(SAMPLES, COLUMNS)

    def with_numpy() -> None:
        image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(samples, axes=2), norm="ortho"), axes=2)
        out[lines] = image[:, :, kept]

    times = in_turns({"ours": lambda: plan.execute(samples, lines, out), "numpy": with_numpy}, runs)
    rates = {name: [1e3 * READOUTS / ms for ms in series] for name, series in times.items()}
    return summarise(
        "kernels.ingest_per_s" + ("" if threads == 1 else f".{threads}_threads"),
        rates["ours"],
        unit="readouts/s",
        better="higher",
        peer="numpy (one thread)",
        peer_samples=rates["numpy"],
        threads=threads,
        note=f"{COILS} coils x {SAMPLES} samples to {COLUMNS} columns, batches of {READOUTS}, {instruction_set()}",
    )


def _sensitivities(threads: int, runs: int) -> Record:
    """Coil sensitivities of a slice from its ACS."""
    scan = phantom()
    lines = contiguous_centre(scan.mask)
    _, rows, columns = scan.kspace.shape
    acs, plans = np.ascontiguousarray(scan.kspace[:, lines]), Plans(Workers(threads))

    def ours() -> Any:
        return estimate_sensitivities(acs, rows, columns, plans)

    contestants: dict[str, Callable[[], Any]] = {"ours": ours}
    try:
        import bartorch

        from benchmarks.peers import bart_pics
    except ImportError as error:
        peer = f"the peer is not installed ({error.name})"
    else:
        settings = bart_pics.Calibration((4, 4), 0.0)
        kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace)).unsqueeze(1)

        def ecalib() -> Any:
            bartorch.set_num_threads(threads)
            return bart_pics.calibrate(kspace, settings)

        contestants["peer"] = ecalib
        alike = np.abs(np.sum(ours().conj() * ecalib().numpy()[:, 0], axis=0))
        peer = f"both kernel 4 x 4, no cropping; angle between their maps, median: {np.rad2deg(np.arccos(np.median(alike))):.1f}°"
    times = in_turns(contestants, runs)
    return summarise(
        "kernels.sensitivities_ms" + ("" if threads == 1 else f".{threads}_threads"),
        times["ours"],
        unit="ms",
        better="lower",
        peer="BART ecalib (bartorch)" if "peer" in times else "",
        peer_samples=times.get("peer", ()),
        threads=threads,
        note=f"{acs.shape[0]} coils, {acs.shape[1]} ACS lines, to {rows} x {columns}, {instruction_set()}; {peer}",
    )


def in_turns(contestants: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Milliseconds of every run; each contestant first runs twice unmeasured, and begins when the threads of the one
    before have come to rest."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(runs + 2):
        for name, run in contestants.items():
            rested = time.perf_counter() + REST_S
            while (begun := time.perf_counter()) < rested:
                pass  # asleep, this core would slow down
            run()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return times


def _machine(threads: int) -> tuple[float, float]:
    """Bytes a second of a copy (read and written) and floating-point operations a second of sgemm; the best of several runs."""
    torch.set_num_threads(threads)
    source = torch.ones(16 << 20)
    target = torch.empty_like(source)
    matrix = torch.ones(1024, 1024)
    times = in_turns({"copy": lambda: target.copy_(source), "sgemm": lambda: matrix @ matrix}, 8)
    return 2 * 4 * source.numel() / (1e-3 * min(times["copy"])), 2 * 1024**3 / (1e-3 * min(times["sgemm"]))
