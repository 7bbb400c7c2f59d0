"""What a learned image costs on this machine: time from samples to image, and the memory of a process that makes it."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, reconstruct
from edge_runtime.modalities.mri.sampling import variable_density
from export.qualification.subject import Subject

SIZE, COILS, ACCELERATION, ACS_FRACTION = 256, 8, 4, 0.08
RUNS = 9


@dataclass(frozen=True)
class Cost:
    """Of one form with one number of threads, 256 x 256, 8 coils, R = 4.

    Attributes:
        image_ms: from samples and calibration to the learned image, median of `RUNS`.
        slowest_ms: of these.
        memory_mb: most resident memory of a process of its own that loads the form and makes the images (1 MB = 1e6 bytes).
    """

    precision: str
    threads: int
    image_ms: float
    slowest_ms: float
    memory_mb: float


def costs(subject: Subject, threads: int) -> list[Cost]:
    """Of every form with one thread and with ``threads``, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    found = []
    for precision in subject.forms:
        for count in sorted({1, threads}):
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                values = process.submit(_measure, subject.settings, subject.forms[precision], count).result()
            found.append(Cost(precision, count, *values))
    return found


def _measure(settings: UnrolledSettings, graph: bytes, threads: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    y, x = np.linspace(-1, 1, SIZE)[:, None], np.linspace(-1, 1, SIZE)[None, :]
    magnitude = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.3 * np.cos(9 * x) * np.cos(7 * y))
    around = 2 * np.pi * np.arange(COILS) / COILS
    maps = np.exp(-((y - np.sin(around)[:, None, None]) ** 2) - (x - np.cos(around)[:, None, None]) ** 2 + 0j)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * magnitude, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    noise = 0.02 * (rng.standard_normal(spectrum.shape) + 1j * rng.standard_normal(spectrum.shape))
    measured = variable_density(SIZE, ACCELERATION, ACS_FRACTION, rng)
    hybrid = to_image(np.asarray(spectrum + noise, np.complex64), axis=2) * measured[None, :, None]
    plans = Plans(Workers(threads))
    calibration = calibrate(hybrid, measured, plans)
    samples = SliceSamples(hybrid, measured, NoiseLevel(0.03, "noise scan"), (0,))
    model = LearnedReconstruction(settings, OnnxRuntimeEngine().plan(graph, threads))
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        next(reconstruct(samples, calibration, model, plans))  # the learned image comes first
        times.append(1e3 * (time.perf_counter() - began))
    del times[0]  # plans and buffers are made
    return float(np.median(times)), max(times), _peak_mb()


def _peak_mb() -> float:
    """The most this process has had resident. (getrusage's figure would include its parent's at the fork.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak_kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak_kib) * 1024 / 1e6
