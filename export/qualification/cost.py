"""What a learned image costs on this machine: time from samples to image, and the memory of a process that makes it."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle import Graphs, Settings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.hil.footprint import peak_bytes
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.families import made_ready
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, reconstruct
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from export.qualification.subject import Subject

SIZE, COILS, ACCELERATION = 256, 8, 4
NOISE = 0.02
RUNS = 9


@dataclass(frozen=True)
class Cost:
    """Of one form with one number of threads, 256 x 256, 8 coils, R = 4.

    Attributes:
        image_ms: from samples to the learned image, coil calibration included, median of `RUNS`.
        slowest_ms: of these.
        memory_mb: most resident memory of a process of its own that loads the form and makes the images (1 MB = 1e6 bytes).
    """

    precision: str
    threads: int
    image_ms: float
    slowest_ms: float
    memory_mb: float


def costs(subject: Subject, threads: int) -> list[Cost]:
    """Of every form with one thread and with ``threads``, each in a process of its own, all of one simulated scan."""
    spawn = multiprocessing.get_context("spawn")
    samples, found = _samples(), []
    for precision, graphs in subject.forms.items():
        for count in sorted({1, threads}):
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                values = process.submit(_measure, subject.settings, graphs, count, samples).result()
            found.append(Cost(precision, count, *values))
    return found


def _samples() -> SliceSamples:
    from export.simulate.objects import (  # with SciPy, which the measured process must not load
        draw_phantom,
        random_field_phase,
    )
    from export.simulate.receive import complex_noise, gaussian_coils, measure

    rng, finer = np.random.default_rng(0), (2 * SIZE, 2 * SIZE)
    kspace = measure(draw_phantom(finer, rng, random_field_phase), gaussian_coils(finer, COILS, rng), (SIZE, SIZE))
    kspace = kspace + np.float32(NOISE) * complex_noise(kspace.shape, rng)
    measured = variable_density(SIZE, ACCELERATION, ACS_FRACTION_BY_ACCELERATION[ACCELERATION], rng)
    hybrid = to_image(np.asarray(kspace, np.complex64), axis=2) * measured[None, :, None]
    return SliceSamples(hybrid, measured, NoiseLevel(NOISE, "noise scan"), (0,))


def _measure(settings: Settings, graphs: Graphs, threads: int, samples: SliceSamples) -> tuple[float, float, float]:
    plans = Plans(Workers(threads))
    model = made_ready(settings, graphs, OnnxRuntimeEngine(), threads)
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        calibration = calibrate(samples.hybrid, samples.measured, plans)
        next(reconstruct(samples, calibration, model, plans))  # the learned image comes first
        times.append(1e3 * (time.perf_counter() - began))
    del times[0]  # plans and buffers are made
    return float(np.median(times)), max(times), peak_bytes() / 1e6
