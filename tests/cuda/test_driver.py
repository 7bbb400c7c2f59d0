"""The test driver finds what a GPU would hide."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.cuda

PREPARE = """
import numpy as np, pycuda.driver as driver
driver.init()
driver.Device(0).retain_primary_context().push()
kernels = driver.module_from_buffer(open({cubin!r}, "rb").read())
out = driver.mem_alloc(4)
host = driver.pagelocked_empty(1, np.float32)
host[:] = 7
stream = driver.Stream()
def launch(name, *arguments, shared=0, threads=32):
    kernels.get_function(name)(out, *map(np.int32, arguments), block=(threads, 1, 1), shared=shared, stream=stream)
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Runs Python with the faulty kernels at hand."""
    sys.path.insert(0, str(HERE.parents[1] / "kernels"))
    import cubins

    folder = tmp_path_factory.mktemp("faulty")
    cubin = folder / "faulty.cubin"
    cubin.write_bytes(
        cubins.Nvrtc(cubins.find_compiler(cubins.CUDA_12)).compile(HERE / "faulty" / "faulty.cu", "sm_87")
    )
    command = [sys.executable, str(HERE / "build.py"), "--kernels-only", str(HERE / "faulty"), "--out", str(folder)]
    subprocess.run(command, check=True)

    def run(script: str, **settings: str) -> subprocess.CompletedProcess[str]:
        whole = PREPARE.format(cubin=str(cubin)) + script + "\ndriver.Context.pop()"
        environment = {**os.environ, "EDGE_DRIVER_KERNELS": str(folder), **settings}
        return subprocess.run(
            [sys.executable, "-c", whole], env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_what_was_launched_has_not_happened_before_it_is_waited_for(faulty):
    done = faulty("""
launch("count", 3, threads=1)
driver.memcpy_dtoh_async(host, out, stream)
print(host[0])
stream.synchronize()
print(np.isnan(host[0]))
""")
    assert done.stdout.split() == ["7.0", "True"], done.stderr  # fresh memory holds something that is not a number


def test_events_order_streams(faulty):
    done = faulty("""
other, event = driver.Stream(), driver.Event()
driver.memcpy_htod_async(out, np.zeros(1, np.float32), stream)
launch("count", 3)
event.record(stream)
other.wait_for_event(event)
driver.memcpy_dtoh_async(host, out, other)
other.synchronize()
print(host[0])
""")
    assert done.stdout.split() == ["96.0"], done.stderr


@pytest.mark.parametrize("shared", [16, 48])
def test_a_write_beyond_the_shared_memory_is_found(faulty, shared):
    done = faulty(f"launch('beyond_shared', {shared // 16}, shared={shared}); stream.synchronize()")
    assert "beyond_shared: a write beyond the shared memory asked for" in done.stderr
    assert faulty(f"launch('beyond_shared', {shared // 16 - 1}, shared={shared}); stream.synchronize()").returncode == 0


def test_a_barrier_that_some_threads_miss_is_found(faulty):
    done = faulty("launch('diverging_barrier', 5); stream.synchronize()")
    assert "a barrier that some threads of the block have ended without" in done.stderr
    assert faulty("launch('diverging_barrier', 32); stream.synchronize()").returncode == 0


def test_a_write_beyond_an_allocation_ends_the_process(faulty):
    assert faulty("launch('beyond_memory', 4); stream.synchronize()").returncode == -11


def test_device_memory_is_no_memory_of_the_host(faulty):
    assert faulty("import ctypes; print(ctypes.string_at(int(out), 4))").returncode == -11


def test_parameters_must_be_as_long_as_the_cubin_says(faulty):
    assert "invalid argument" in faulty("launch('count')").stderr
    assert "invalid argument" in faulty("launch('count', 1, 2)").stderr


def test_copies_must_stay_within_allocations(faulty):
    assert "invalid argument" in faulty("driver.memcpy_htod(int(out) + 1, np.zeros(1, np.float32))").stderr


def test_more_shared_memory_than_was_asked_for_is_refused(faulty):
    assert "invalid argument" in faulty("launch('count', 1, shared=49 << 10)").stderr
