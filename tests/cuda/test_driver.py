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


GRAPHS = """
import ctypes, threading
library = ctypes.CDLL("libcuda.so.1")
handle = ctypes.c_void_p
def begin(mode):
    return library.cuStreamBeginCapture_v2(handle(stream.handle), mode)
def end():
    graph = handle()
    return library.cuStreamEndCapture(handle(stream.handle), ctypes.byref(graph)), graph
GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
BLOCKING, NON_BLOCKING = 0, 1
"""


def test_what_is_captured_happens_when_its_graph_is_launched_and_as_often(faulty):
    done = faulty(
        GRAPHS
        + """
driver.memcpy_htod(out, np.zeros(1, np.float32))
given = driver.pagelocked_empty(1, np.float32)
given[:] = 2
assert begin(RELAXED) == 0
driver.memcpy_htod_async(out, given, stream)
launch("count", 3)
driver.memcpy_dtoh_async(host, out, stream)
status, graph = end()
assert status == 0
stream.synchronize()
print(host[0])
executable = handle()
assert library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0)) == 0
assert library.cuGraphDestroy(graph) == 0
for given[:] in (2, 5):
    assert library.cuGraphLaunch(executable, handle(stream.handle)) == 0
    print(host[0])
    stream.synchronize()
    print(host[0])
assert library.cuGraphLaunch(executable, handle(stream.handle)) == 0
given[:] = 10
assert library.cuGraphExecDestroy(executable) == 0  # which runs to its end
stream.synchronize()
print(host[0])
assert library.cuGraphExecDestroy(executable) == library.cuGraphDestroy(graph) == 1
"""
    )
    assert done.stdout.split() == ["7.0", "7.0", "98.0", "98.0", "101.0", "106.0"], done.stderr


CONFLICTS = {
    "a synchronous copy beside a blocking stream": (
        "BLOCKING, RELAXED", "driver.memcpy_htod(out, host)", "make the legacy stream depend on a capturing",
    ),
    "work of the legacy stream beside a blocking stream": (
        "BLOCKING, RELAXED", "driver.memset_d8_async(out, 0, 4)", "make the legacy stream depend on a capturing",
    ),
    "a synchronous copy": ("NON_BLOCKING, RELAXED", "driver.memcpy_htod(out, host)", ""),
    "a synchronous copy of the same thread": (
        "NON_BLOCKING, THREAD_LOCAL", "driver.memcpy_htod(out, host)", "not permitted when stream is capturing",
    ),
    "memory": ("NON_BLOCKING, RELAXED", "driver.mem_alloc(4).free()", ""),
    "memory of the same thread": (
        "NON_BLOCKING, THREAD_LOCAL", "driver.mem_alloc(4)", "not permitted when stream is capturing",
    ),
    "memory of another thread": ("NON_BLOCKING, THREAD_LOCAL", "elsewhere(lambda: driver.mem_alloc(4).free())", ""),
    "memory of another thread, globally": (
        "NON_BLOCKING, GLOBAL", "elsewhere(lambda: driver.mem_alloc(4))", "not permitted when stream is capturing",
    ),
    "waiting for the stream": ("NON_BLOCKING, RELAXED", "stream.synchronize()", "not permitted when stream is capturing"),
    "asking whether it is done": ("NON_BLOCKING, RELAXED", "stream.is_done()", "not permitted when stream is capturing"),
    "waiting for another": ("NON_BLOCKING, RELAXED", "driver.Stream().synchronize()", ""),
    "waiting for everything": (
        "NON_BLOCKING, RELAXED", "driver.Context.synchronize()", "not permitted when stream is capturing",
    ),
    "an event": ("NON_BLOCKING, RELAXED", "driver.Event().record(stream)", "not supported by the test driver"),
    "an event of elsewhere": (
        "NON_BLOCKING, RELAXED", "stream.wait_for_event(driver.Event())", "dependency created on uncaptured work",
    ),
}  # fmt: skip
"""With which stream and mode, what is done meanwhile, and what the driver says."""


@pytest.mark.parametrize("conflict", CONFLICTS)
def test_what_a_capture_must_not_meet_breaks_it(conflict, faulty):
    how, statement, said = CONFLICTS[conflict]
    done = faulty(
        GRAPHS
        + f"""
flags, mode = {how}
stream = driver.Stream(flags)
retained = driver.Device(0).retain_primary_context()
def elsewhere(work):
    raised = []
    def act():
        retained.push()
        try:
            work()
        except driver.Error as error:
            raised.append(error)
        finally:
            driver.Context.pop()
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    for error in raised:
        raise error
assert begin(mode) == 0
launch("count", 3)
try:
    {statement}
    print("allowed")
except driver.Error as error:
    print(error)
    try:
        launch("count", 3)
    except driver.Error as error:
        print(error)
status, graph = end()
print(status, bool(graph))
launch("count", 3)
stream.synchronize()
"""
    )
    assert done.returncode == 0, done.stderr
    *told, ended = done.stdout.splitlines()
    if said:
        assert said in told[0] and "previous error during capture" in told[1]
        assert ended == "901 False"
    else:
        assert told == ["allowed"] and ended == "0 True"


def test_captures_begin_and_end_where_they_may(faulty):
    done = faulty(
        GRAPHS
        + """
assert end()[0] == 401
assert library.cuStreamBeginCapture_v2(None, RELAXED) == 900
assert begin(THREAD_LOCAL) == 0
assert begin(THREAD_LOCAL) == 401
told = []
thread = threading.Thread(target=lambda: told.append(end()[0]))
thread.start()
thread.join()
assert told == [908]
assert end()[0] == 0
"""
    )
    assert done.returncode == 0, done.stderr
