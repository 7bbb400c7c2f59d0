"""Plans allocate when they are made, and nothing when they are executed: counted by a library that takes the allocator's place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

COUNTED = """
import ctypes
import numpy as np
from sense_problems import image_like
from simulated import coil_maps, complex_noise
from edge_runtime.kernels import (
    AdaptivePlan, CoilPlan, IngestPlan, PackPlan, SensePlan, SensitivityPlan, VolumeSensePlan, Workers
)

allocations = ctypes.CDLL(None).allocations
workers, rng = Workers(2), np.random.default_rng(0)
coils, lines, columns = shape = 4, 24, 40
hybrid, maps, mask, measured = complex_noise(shape, rng), coil_maps(*shape), rng.random(shape[1:]) < 0.6, np.ones(lines, bool)
image, out, weights = complex_noise(shape[1:], rng), np.empty(shape[1:], np.complex64), np.ones(shape[1:], np.float32)
magnitude, power = np.empty_like(weights), np.empty_like(weights)
sense, coil, adaptive = (kind(workers, *shape) for kind in (SensePlan, CoilPlan, AdaptivePlan))
sense.set_maps(maps)
sense.set_samples(hybrid, mask)
ingest, readouts = IngestPlan(workers, coils, 64, columns), complex_noise((lines, coils, 64), rng)
counts = np.full(lines, 2, np.int32)
places, rows, whitening = np.arange(lines), np.empty((lines, coils, columns), np.complex64), np.eye(coils, dtype=np.complex64)
volume = VolumeSensePlan(workers, 2, 6, 10, 9)
volume.set_maps(complex_noise((2, 6, 10, 9), rng))
volume.set_samples(complex_noise((2, 6, 10, 9), rng), np.ones((6, 10, 9), bool))
volume_image = image_like(volume)
volume_out = np.empty_like(volume_image)
sensitivities, acs = SensitivityPlan(workers, coils, (12, 16), (4, 4), (12, 20), shape[1:]), complex_noise((coils, 12, 16), rng)
estimated, matrix, virtual = np.empty_like(maps), complex_noise((2, coils), rng), np.empty((2, lines, columns), np.complex64)
pack = PackPlan(workers, lines, columns, 16)
planes = np.zeros((2, *pack.plane), np.float32)
executions = {
    "IngestPlan": lambda: ingest.execute(readouts, places, rows, whitening=whitening, add=True),
    "IngestPlan.mean": lambda: ingest.mean(rows, counts, rows),
    "CoilPlan.compress": lambda: coil.compress(hybrid, measured, matrix, virtual),
    "CoilPlan.root_sum_of_squares": lambda: coil.root_sum_of_squares(hybrid, measured, magnitude),
    "AdaptivePlan": lambda: adaptive.combine(hybrid, measured, out),
    "SensePlan.set_maps": lambda: sense.set_maps(maps),
    "SensePlan.set_samples": lambda: sense.set_samples(hybrid, mask),
    "SensePlan.normal": lambda: sense.normal(image, out),
    "SensePlan.gradient": lambda: sense.gradient(image, out),
    "SensePlan.data_consistent": lambda: sense.data_consistent(image, 0.1, 3, out),
    "SensePlan.regularised": lambda: sense.regularised(weights, 3, out),
    "SensePlan.substituted": lambda: sense.substituted(image, hybrid, mask, (magnitude, power)),
    "SensePlan.between": lambda: sense.between(image, image, 0.5, out),
    "SensePlan.sample_power": lambda: sense.sample_power(hybrid, power),
    "SensePlan.line_search": lambda: sense.line_search(image, image, hybrid, mask),
    "VolumeSensePlan.data_consistent": lambda: volume.data_consistent(volume_image, 0.1, 3, volume_out),
    "SensitivityPlan": lambda: sensitivities.estimate(acs, 0.02, weights, estimated),
    "PackPlan.pack": lambda: pack.pack(image, 2.0, planes),
    "PackPlan.pack, turned back": lambda: pack.pack(image, 2.0, planes, phase=image),
    "PackPlan.add": lambda: pack.add(image, planes, 2.0, out=out),
    "PackPlan.add, turned": lambda: pack.add(image, planes, 2.0, out=out, phase=image),
}
for name, execute in executions.items():
    for _ in range(20):  # Python's own caches fill
        execute()
    before = allocations()
    for _ in range(50):
        execute()
    if allocations() != before:
        print(name, (allocations() - before) / 50)
before = allocations()
kept = [np.empty(1000) for _ in range(50)]
assert allocations() - before >= 50, "nothing is counted"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator's place is taken as glibc lets one")
def test_executing_a_plan_allocates_nothing(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the kernels were built with one"
    library = tmp_path / "allocations.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "allocations.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", COUNTED], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr[-4000:]
