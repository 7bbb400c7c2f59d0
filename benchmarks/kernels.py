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
from edge_runtime.kernels import IngestPlan, Plans, SensePlan, Workers, instruction_set
from edge_runtime.modalities.mri.coils import estimate_sensitivities
from edge_runtime.modalities.mri.fourier import centre_slice
from edge_runtime.modalities.mri.sampling import contiguous_centre
from export.simulate.receive import complex_noise

COILS, LINES, COLUMNS = 8, 256, 256
ACCELERATION = 4
READOUTS, SAMPLES = 128, 512
THREADS = (1, 2)
RUNS = 40

SPEEDUP_WANTED = 3.0
MOST_OF_ROOFLINE = 2.0


def kernels(quick: bool) -> list[Record]:
    """Data consistency, ingest and sensitivities with one thread and with two; contestants take turns."""
    runs = 3 if quick else RUNS
    records = []
    for threads in THREADS:
        records += [*_data_consistency(threads, runs), _ingest(threads, runs), _sensitivities(threads, runs)]
    return records


def _data_consistency(threads: int, runs: int) -> list[Record]:
    """``Σ Sᴴ Fᴴ M (F S x - y)`` of one slice, the Fourier transform along the phase encodes."""
    rng = np.random.default_rng(0)
    maps = complex_noise((COILS, LINES, COLUMNS), rng) / np.float32(math.sqrt(COILS))
    mask = np.zeros((LINES, COLUMNS), np.bool_)
    mask[rng.choice(LINES, LINES // ACCELERATION, replace=False)] = True
    samples = complex_noise((COILS, LINES, COLUMNS), rng) * mask
    image = complex_noise((LINES, COLUMNS), rng)
    plan = SensePlan(Workers(threads), COILS, LINES, COLUMNS)
    plan.set_maps(maps)
    plan.set_samples(samples, mask)
    out = np.empty_like(image)

    contestants = {"ours": lambda: plan.gradient(image, out), **_peers(maps, mask, samples, image, threads)}
    _agree(contestants)
    times = in_turns(contestants, runs)
    best = min((name for name in times if name != "ours"), key=lambda name: float(np.median(times[name])))
    ours, peer = times["ours"], times[best]
    note = (
        f"{COILS} coils x {LINES} x {COLUMNS} complex64, one Fourier axis, {instruction_set()}; peers' medians: "
        + ", ".join(f"{name} {np.median(times[name]):.2f} ms" for name in times if name != "ours")
    )
    suffix = "" if threads == 1 else f".{threads}_threads"
    figures = [
        summarise(
            f"kernels.data_consistency_ms{suffix}",
            ours,
            unit="ms",
            better="lower",
            peer=best,
            peer_samples=peer,
            threads=threads,
            target=float(np.median(peer)) / SPEEDUP_WANTED,
            note=note,
        )
    ]
    moved = 8 * (COILS + 3) * LINES * COLUMNS + 4 * LINES * COLUMNS  # maps, image, Aᴴ y, result; the mask
    operations = COILS * COLUMNS * (2 * 5 * LINES * math.log2(LINES) + 16 * LINES)
    copy_rate, sgemm_rate = _machine(threads)
    at_best_ms = 1e3 * max(moved / copy_rate, operations / sgemm_rate)
    figures.append(
        summarise(
            f"kernels.data_consistency.roofline_ratio{suffix}",
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
    """By scipy.fft and torch, with the phase encodes on the middle axis as ours and on the last one."""
    # A shift of k-space and image leaves the work the same: every transform below is uncentred on shifted arrays.
    shifted = [np.fft.ifftshift(array, axes=-2) for array in (maps, mask, samples, image)]
    turned = [np.ascontiguousarray(np.swapaxes(array, -1, -2)) for array in shifted]
    peers: dict[str, Callable[[], Any]] = {}
    for layout, arrays, axis in (("", shifted, 1), (", phase encodes last", turned, 2)):
        peers[f"scipy.fft{layout}"] = _scipy_form(arrays, axis, threads)
        peers[f"torch{layout}"] = _torch_form([torch.from_numpy(array) for array in arrays], axis, threads)
    return peers


def _scipy_form(arrays: list[Any], axis: int, threads: int) -> Callable[[], Any]:
    maps, mask, samples, image = arrays
    conjugate, counts = maps.conj(), mask.astype(np.float32)

    def run() -> Any:
        spectrum = scipy.fft.fft(maps * image, axis=axis, norm="ortho", workers=threads, overwrite_x=True)
        spectrum -= samples
        spectrum *= counts
        coil_images = scipy.fft.ifft(spectrum, axis=axis, norm="ortho", workers=threads, overwrite_x=True)
        coil_images *= conjugate
        return _back(coil_images.sum(axis=0), axis)

    return run


def _torch_form(arrays: list[Any], axis: int, threads: int) -> Callable[[], Any]:
    maps, mask, samples, image = arrays
    conjugate, counts = maps.conj().resolve_conj(), mask.float()

    def run() -> Any:
        torch.set_num_threads(threads)
        spectrum = torch.fft.fft(maps * image, dim=axis, norm="ortho")
        spectrum.sub_(samples).mul_(counts)
        coil_images = torch.fft.ifft(spectrum, dim=axis, norm="ortho").mul_(conjugate)
        return _back(coil_images.sum(0).numpy(), axis)

    return run


def _back(image: Any, axis: int) -> Any:
    """A view in the order of ours, for the comparison of results; costs nothing while timed."""
    return image if axis == 1 else image.T


def _agree(contestants: Mapping[str, Callable[[], Any]]) -> None:
    ours = contestants["ours"]()
    for name, run in contestants.items():
        theirs = ours if name == "ours" else np.fft.fftshift(run(), axes=0)
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
    """Milliseconds of every run; each contestant first runs twice unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(runs + 2):
        for name, run in contestants.items():
            begun = time.perf_counter()
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
