"""A GPU that can't be used is an error that names what was found, what is needed, and the mend."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import pytest

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import driver, first_device, open_device
from edge_runtime.engines import onnxruntime_gpu
from edge_runtime.errors import ArgumentError, DeviceUnsupported, OutOfDeviceMemory
from edge_runtime.kernels import (
    AdaptivePlan,
    CoilPlan,
    IngestPlan,
    SensePlan,
    SensitivityPlan,
    VolumeSensePlan,
    Workers,
)

pytestmark = pytest.mark.cuda

PLAN = """
from edge_runtime.errors import DeviceError
from edge_runtime.kernels import SensePlan, Workers
try:
    SensePlan(Workers(1), {shape}, device="cuda")
except DeviceError as error:
    print(type(error).__name__, error)
else:
    print("planned")
SensePlan(Workers(1), {shape})
"""


def planned(shape: str = "2, 64, 32", **settings: str) -> str:
    """What comes of a plan in a process of its own; afterwards it still plans for the CPU."""
    environment = {**os.environ, **settings}
    done = subprocess.run(
        [sys.executable, "-c", PLAN.format(shape=shape)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, r"planned"),
        ({"EDGE_DRIVER_CAPABILITY": "8.9"}, r"DeviceUnsupported .* compute capability 8.9"),  # a desktop's
        ({"EDGE_DRIVER_CAPABILITY": "11.0", "EDGE_DRIVER_VERSION": "13000"}, r"planned"),
        ({"LD_LIBRARY_PATH": ""}, r"NoDevice PyCUDA can't be used .*libcuda.so.1.*install the extra"),
        ({"EDGE_DRIVER_VERSION": "11040"}, r"DriverTooOld the driver is of CUDA 11.4, the kernels need 12.6: update"),
        (
            {"EDGE_DRIVER_CAPABILITY": "11.0"},
            r"DriverTooOld the driver is of CUDA 12.6, the kernels for sm_110 are of CUDA 13: update the driver",
        ),
        (
            {"EDGE_DRIVER_CAPABILITY": "7.2"},
            r"DeviceUnsupported .* compute capability 7.2, which sense was not compiled for: make cubins",
        ),
        ({"EDGE_DRIVER_CAPABILITY": "8.6"}, r"DeviceUnsupported .* compute capability 8.6"),
        (
            {"EDGE_DRIVER_REFUSES": "cuDevicePrimaryCtxRetain 2"},
            r"OutOfDeviceMemory the GPU has no memory left for a context .*: end other programs",
        ),
        (
            {"EDGE_DRIVER_REFUSES": "cuDevicePrimaryCtxRetain 46"},
            r"NoDevice the CUDA driver answers cuDevicePrimaryCtxRetain failed: .* take a profile",
        ),
        ({"EDGE_DRIVER_REFUSES": "cuCtxPushCurrent_v2 719"}, r"DeviceFailed test driver .*must be started anew"),
        ({"EDGE_DRIVER_MEMORY": "30000"}, r"OutOfDeviceMemory .* has 0 of 0 MB left.*plan fewer or smaller scans"),
    ],
)
def test_what_is_missing_is_named(settings, expected):
    assert re.search(expected, planned(**settings))


REFUSED = "{length} {axis}: a block of .* holds 1 to {most}{beyond}, and no transform .* kernels run on the CPU"
PRIME = " where a prime factor is above 8"


@pytest.mark.parametrize(
    ("plan", "axis", "most", "most_of_large_primes"),
    [
        (lambda length: SensePlan(Workers(1), 1, length, 2, device="cuda"), "phase encodes", 2607, 2085),
        (lambda length: CoilPlan(Workers(1), 1, length, 2, device="cuda"), "phase encodes", 5214, 3476),
        (lambda length: AdaptivePlan(Workers(1), 1, length, 2, device="cuda"), "phase encodes", 10428, 5214),
        (lambda length: VolumeSensePlan(Workers(1), 1, 2, length, 2, device="cuda"), "phase encodes", 5214, 3476),
        (lambda length: VolumeSensePlan(Workers(1), 1, length, 2, 2, device="cuda"), "partitions", 10428, 5214),
        (lambda length: IngestPlan(Workers(1), 1, length, length, device="cuda"), "samples of a readout", 10428, 5214),
    ],
    ids=["sense", "coils", "adaptive", "volume, along", "volume, through", "ingest"],
)
def test_lengths_that_a_block_does_not_hold_are_refused(plan, axis, most, most_of_large_primes):
    """To the number: the longest that is taken, the next one whose factors are alike, and what the error says of both."""
    for limit, smooth, beyond in ((most, True, ""), (most_of_large_primes, False, PRIME)):
        longest = next(length for length in range(limit, 0, -1) if is_smooth(length) == smooth)
        shortest = next(length for length in range(limit + 1, 2 * limit) if is_smooth(length) == smooth)
        plan(longest)
        with pytest.raises(
            DeviceUnsupported, match=REFUSED.format(length=shortest, axis=axis, most=limit, beyond=beyond)
        ):
            plan(shortest)


def is_smooth(length: int) -> bool:
    """Whether no prime factor is above 7."""
    for prime in (2, 3, 5, 7):
        while length % prime == 0:
            length //= prime
    return length == 1


def test_plans_of_several_sizes_have_their_kernels_at_the_same_time():
    large, small = (CoilPlan(Workers(1), 2, lines, 4, device="cuda") for lines in (1024, 8))
    for plan, lines in ((large, 1024), (small, 8), (large, 1024)):
        image = plan.root_sum_of_squares(np.zeros((2, lines, 4), np.complex64), np.ones(lines, bool))
        np.testing.assert_array_equal(image, 0)


def test_memory_is_given_back_in_whatever_thread_its_plan_ends():
    def free_bytes() -> int:
        with open_device().use():
            return driver.mem_get_info()[0]

    def work() -> None:
        plan = CoilPlan(Workers(1), 2, 64, 32, device="cuda")
        plan.compress(np.zeros((2, 64, 32), np.complex64), np.ones(64, bool), np.eye(2, dtype=np.complex64))
        plan.root_sum_of_squares(np.zeros((2, 64, 32), np.complex64), np.ones(64, bool))

    work()  # what the pool holds it keeps
    gc.collect()
    before = free_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    gc.collect()
    assert free_bytes() == before


def test_an_array_on_the_gpu_is_seen_by_numpy_and_by_plans_for_the_gpu_alone():
    array = open_device().array((3, 4, 8), np.complex64)
    plan = IngestPlan(Workers(1), 4, 16, 8, device="cuda")
    samples = np.arange(3 * 4 * 16).reshape(3, 4, 16).astype(np.complex64)
    on_host = np.empty((3, 4, 8), np.complex64)
    for out in (array, on_host):
        plan.execute(samples, np.arange(3), out)
    np.testing.assert_array_equal(array, on_host)
    np.testing.assert_array_equal(array.transpose(1, 0, 2)[1:3], on_host.transpose(1, 0, 2)[1:3])
    np.testing.assert_array_equal(array * 2, on_host * 2)
    np.testing.assert_array_equal(np.abs(array), np.abs(on_host))
    np.testing.assert_array_equal(array[1, 2:], on_host[1, 2:])
    for key in ((0, 0, 0), [0, 1], np.array([True, False, True])):
        with pytest.raises(TypeError, match="indexed by slices"):
            array[key]
    with pytest.raises(ValueError, match="only seen by a copy"):
        np.asarray(array, copy=False)
    with pytest.raises(ArgumentError, match=r"hybrid: a NumPy array, or DLPack in CPU memory .* DeviceArray came"):
        CoilPlan(Workers(1), 4, 3, 8).root_sum_of_squares(array.transpose(1, 0, 2), np.ones(3, bool))
    with pytest.raises(ArgumentError, match=r"sums: shape \(any, 4, 8\) expected, shape \(4, 3, 8\) came"):
        plan.mean(array.transpose(1, 0, 2), np.ones(4, np.int32))


def test_weights_of_a_solve_may_be_on_the_gpu():
    rng = np.random.default_rng(0)
    maps, samples = (rng.standard_normal((2, 2, 16, 8)) + 1j).astype(np.complex64)
    plan = SensePlan(Workers(1), 2, 16, 8, device="cuda")
    plan.set_maps(maps)
    plan.set_samples(samples, np.ones((16, 8), bool))
    weight = plan.sample_power(samples)
    assert isinstance(weight, DeviceArray)
    np.testing.assert_array_equal(plan.regularised(weight, 3), plan.regularised(np.asarray(weight), 3))
    weight = plan.sample_power(np.zeros_like(samples))
    with pytest.raises(
        ArgumentError, match=r"spectral_weight: positive and finite weights expected, 0\.0 to 0\.0 came"
    ):
        plan.regularised(weight, 3)


def test_columns_beside_those_of_a_view_on_the_gpu_are_not_looked_at():
    """An odd number of them, of lines that begin where pairs of columns may be read at once."""
    samples = np.ones((2, 16, 8), np.complex64)
    samples[:, :, 7] = np.nan
    lines = np.ones(16, bool)
    array = CoilPlan(Workers(1), 2, 16, 8, device="cuda").compress(samples, lines, np.eye(2, dtype=np.complex64))
    plan = AdaptivePlan(Workers(1), 2, 16, 7, device="cuda")
    of_view = plan.combine(array[:, :, :7], lines)
    np.testing.assert_array_equal(of_view, plan.combine(np.ascontiguousarray(samples[:, :, :7]), lines))
    plan = CoilPlan(Workers(1), 2, 16, 7, device="cuda")
    assert np.isfinite(plan.root_sum_of_squares(array[:, :, :7], lines)).all()
    np.testing.assert_array_equal(plan.compress(array[:, :, :7], lines, np.ones((1, 2), np.complex64)), 2)


SPARE = """
from edge_runtime.cuda.device import driver, first_device, open_device
from edge_runtime.kernels import Plans, SensePlan, Workers
import numpy as np
with open_device().use():
    left, _ = driver.mem_get_info()
array = open_device().array((left - (1 << 20),), np.uint8)
del array
SensePlan(Workers(1), 8, 256, 256, device="cuda")
"""


def test_a_plan_gets_the_memory_of_arrays_that_nobody_holds():
    environment = {**os.environ, "EDGE_DRIVER_MEMORY": str(64 << 20)}
    subprocess.run([sys.executable, "-c", SPARE], env=environment, check=True)


KERNELS = """
from edge_runtime.cuda.device import Device
from edge_runtime.errors import DeviceUnsupported
from edge_runtime.kernels import Plans, Workers
Device._cubin = lambda self, file: b"of another GPU"
try:
    Plans(Workers(1), "cuda")
except DeviceUnsupported as error:
    print(error)
"""


def test_kernels_that_do_not_load_are_told_before_anything_is_planned():
    told = subprocess.run([sys.executable, "-c", KERNELS], check=True, capture_output=True, text=True).stdout
    assert re.search("does not load the kernels of sense .* make cubins", told)


def test_a_gpu_without_kernels_is_told_before_anything_is_planned():
    code = 'from edge_runtime.kernels import Plans, Workers; Plans(Workers(1), "cuda")'
    environment = {**os.environ, "EDGE_DRIVER_CAPABILITY": "8.6"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "DeviceUnsupported" in done.stderr


def test_an_array_that_does_not_fit_is_an_error_with_its_mend():
    with pytest.raises(
        OutOfDeviceMemory, match=r"8,796,093,022,208 bytes were asked for .*plan fewer or smaller scans at a time"
    ):
        open_device().array((1 << 40,), np.complex64)


@pytest.mark.parametrize(("refused", "asked"), [("cuMemAlloc_v2", r"[1-9][\d,]*"), ("cuMemHostAlloc", "4,096,000")])
def test_what_a_plan_asked_for_is_told(refused, asked, monkeypatch):
    monkeypatch.setenv("EDGE_DRIVER_REFUSES", f"{refused} 2")
    with pytest.raises(OutOfDeviceMemory, match=rf"has \d+ of 1074 MB left, {asked} bytes were asked for"):
        IngestPlan(Workers(1), 8, 2000, 256, device="cuda")


@pytest.mark.parametrize(
    ("coils", "kernel", "text"), [(90, (2, 2), "90 coils: more than"), (2, (60, 60), "2 coils with kernels of 60 x 60")]
)
def test_sensitivities_that_a_block_does_not_hold_are_refused(coils, kernel, text):
    with pytest.raises(DeviceUnsupported, match=f"{text}.*compress into fewer virtual coils"):
        SensitivityPlan(Workers(1), coils, (60, 60), kernel, (8, 8), (8, 8), device="cuda")
    SensitivityPlan(Workers(1), 60, (4, 4), (2, 2), (8, 8), (8, 8), device="cuda")


def test_more_coils_than_a_block_holds_are_refused():
    with pytest.raises(
        DeviceUnsupported, match=r"200 coils: their covariance does not fit the .* bytes .* compress them"
    ):
        AdaptivePlan(Workers(1), 200, 8, 8, device="cuda")
    AdaptivePlan(Workers(1), 64, 8, 8, device="cuda")


@pytest.fixture
def not_opened() -> Iterator[None]:
    """The GPU is opened in the test, and once more after it."""
    first_device.cache_clear()
    yield
    first_device.cache_clear()


def test_threads_that_ask_for_the_gpu_at_the_same_time_share_one(monkeypatch, not_opened):
    begun, opened, init = threading.Barrier(2), [], driver.init

    def slow_init() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            begun.wait(0.2)  # the other one, if it gets here too
        init()

    monkeypatch.setattr(driver, "init", slow_init)
    threads = [threading.Thread(target=lambda: opened.append(open_device())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 2 and opened[0] is opened[1]


def test_onnx_runtimes_gpu_providers_are_held_to_the_gpu_and_its_driver(monkeypatch, not_opened):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [onnxruntime_gpu.CUDA, onnxruntime_gpu.TENSORRT])
    before = onnxruntime_gpu.OnnxRuntimeCudaEngine().conditions(None)
    monkeypatch.setenv("EDGE_DRIVER_VERSION", "13000")
    first_device.cache_clear()
    for engine in (onnxruntime_gpu.OnnxRuntimeCudaEngine(), onnxruntime_gpu.OnnxRuntimeTensorRtEngine()):
        assert "test driver without a GPU, 8 multiprocessors, 1 GB, 8.7, driver 13.0" in engine.conditions(None)
    assert before == onnxruntime_gpu.OnnxRuntimeCudaEngine().conditions(None).replace("driver 13.0", "driver 12.6")
