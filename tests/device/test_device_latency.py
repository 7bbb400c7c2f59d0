"""How long the stages of a streamed slice take, and what its memory does; a scan of 8 coils and 256 x 256."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from device_report import TEST_DRIVER

from benchmarks.brain_phantom import phantom
from edge_runtime.bundle import load_bundle
from edge_runtime.bundle.load import DEFAULT_BUNDLE
from edge_runtime.cuda.device import driver, open_device
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.assemble import Assembler
from edge_runtime.modalities.mri.layout import Layout
from edge_runtime.modalities.mri.reconstruct import calibrate, reconstruct
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import prepare_model

pytest_plugins = ("device_report",)
pytestmark = pytest.mark.device

SOAK_MINUTES = 0.02 if TEST_DRIVER else float(os.environ.get("EDGE_SOAK_MINUTES", 2.0))
SCAN = phantom()
PROFILE = load_profile(DEFAULT_PROFILE)


@pytest.fixture(scope="module")
def plans() -> Plans:
    return Plans(Workers(1), "cuda")


@pytest.fixture(scope="module")
def learned():
    """On the CPU's engine: what TensorRT makes of it has tests of its own."""
    return prepare_model(load_bundle(DEFAULT_BUNDLE, None), PROFILE, "fp32").reconstruction


def assembled(device: str):
    header = SCAN.recording.header
    assembler = Assembler(header, Layout.of(header), PROFILE.samples_bytes, device)
    for batch in SCAN.recording.readouts():
        for begin in range(0, len(batch), 16):
            (key, _), *_ = assembler.add(batch[begin : begin + 16])
    return assembler.take(key)


def images(plans, learned):
    samples, acs = assembled(plans.device)
    calibration = calibrate(acs.hybrid(), acs.measured, plans)
    return dict(reconstruct(samples, calibration, learned, plans))


def test_a_streamed_slice_has_the_images_of_the_cpu(plans, learned, report):
    here = images(Plans(Workers(1)), learned)
    for method, made in images(plans, learned).items():
        expected = here[method].image
        difference = float(np.linalg.norm(made.image - expected) / np.linalg.norm(expected))
        report.add(f"{method.value} image, relative difference from the CPU's", f"{difference:.1e}")
        assert difference <= 1e-3


def test_the_stages_are_timed(plans, learned, report):
    report.timed("ingest of 64 readouts", lambda: np.asarray(assembled("cuda")[0].hybrid), 20)
    samples, acs = assembled("cuda")
    hybrid, measured = acs.hybrid(), acs.measured
    calibration = calibrate(hybrid, measured, plans)
    report.timed("calibration", lambda: np.asarray(calibrate(hybrid, measured, plans).sensitivities), 20)
    report.timed("classical and zero-filled image", lambda: list(reconstruct(samples, calibration, None, plans)), 20)
    report.timed(
        "learned image, network on the CPU", lambda: next(reconstruct(samples, calibration, learned, plans)), 10
    )


def test_memory_stays_level_while_slices_come_and_go(plans, learned, report):
    images(plans, None)
    device = open_device()
    with device.use():
        before, _ = driver.mem_get_info()
    end, slices = time.monotonic() + 60 * SOAK_MINUTES, 0
    while time.monotonic() < end or slices < 2:
        images(plans, None)
        slices += 1
    with device.use():
        after, _ = driver.mem_get_info()
    report.add("soak", {"minutes": SOAK_MINUTES, "slices": slices, "memory_grew_mb": round((before - after) / 1e6, 1)})
    assert before - after <= 64 << 20
