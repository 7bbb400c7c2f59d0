"""Sequences of launches become graphs: the same bits with fewer calls, and without graphs whatever goes wrong with them."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequences import BATCHES, STEPS, Call, gradient, image, sensitivities, solve, volume, without_graphs

from edge_runtime.cuda import volume as volume_on_gpu
from edge_runtime.cuda.device import DRIVER_LIBRARY, Device, Memory, driver, open_device
from edge_runtime.cuda.graph import Graphs
from edge_runtime.kernels import CoilPlan, VolumeSensePlan, Workers

pytestmark = pytest.mark.cuda

PLANS = {
    solve: (1 + 3 * BATCHES + 1 + STEPS * (3 * BATCHES + 3) + 1, 2),
    gradient: (1 + 3 * BATCHES + 1, 2),
    sensitivities: (7, 2),
}
"""Launches of one call without a graph, and with one, beside that of the graph."""


def called(function: str) -> int:
    """How often the test driver was called."""
    library = ctypes.CDLL(DRIVER_LIBRARY)
    library.edge_driver_calls.restype = ctypes.c_long
    count: int = library.edge_driver_calls(function.encode())
    return count


def live_graphs() -> int:
    """Graphs, and what was made of them to be launched, that nobody has destroyed."""
    gc.collect()
    library = ctypes.CDLL(DRIVER_LIBRARY)
    library.edge_driver_graphs.restype = ctypes.c_long
    count: int = library.edge_driver_graphs()
    return count


def launches(work: Callable[[], object]) -> tuple[int, int, int]:
    """Kernels and graphs that are launched one by one meanwhile, and captures that are begun."""
    names = "cuLaunchKernel", "cuGraphLaunch", "cuStreamBeginCapture_v2"
    before = [called(name) for name in names]
    work()
    kernels, graphs, captures = (called(name) - count for name, count in zip(names, before, strict=True))
    return kernels, graphs, captures


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("make", PLANS)
def test_a_graph_makes_the_same_bits(make, order, monkeypatch):
    monkeypatch.setenv("EDGE_DRIVER_ORDER", order)
    plan, plain = make(), without_graphs(make)
    for seed in (0, 1, 2, 0):
        np.testing.assert_array_equal(plan(seed), plain(seed), strict=True)


@pytest.mark.parametrize("make", PLANS)
def test_the_driver_is_called_less_often(make):
    plan = make()
    kernels, rest = PLANS[make]
    assert launches(lambda: plan(0)) == (kernels, 0, 0)  # the first may be the last
    assert launches(lambda: plan(1)) == (kernels, 1, 1)  # kernels beside the graph, and those that are captured
    for seed in (2, 3):
        assert launches(lambda seed=seed: plan(seed)) == (rest, 1, 0)


@pytest.mark.parametrize("make", PLANS)
def test_the_same_kernels_run_with_the_same_grids(make, tmp_path, monkeypatch):
    plan = make()
    logs = [tmp_path / f"launches of call {call}" for call in range(3)]
    for log in logs:
        monkeypatch.setenv("EDGE_DRIVER_LOG", str(log))
        plan(0)
    first, *later = (log.read_text() for log in logs)
    assert first.count("\n") == PLANS[make][0]
    assert later == [first, first]


def test_arrays_of_callers_may_be_anywhere():
    plan = volume()
    priors = [image(seed) for seed in range(4)]
    results = [plan.data_consistent(prior, 0.3, STEPS) for prior in priors]  # kept, so that none takes another's place
    assert len({result.address for result in results}) == len(results)
    again = [plan.data_consistent(plan.gradient(prior), 0.3, STEPS, out=prior) for prior in results]
    captures = launches(lambda: plan.data_consistent(results[0], 0.3, STEPS, out=results[1]))
    assert captures == (2, 1, 0)
    assert all(np.isfinite(np.asarray(result)).all() for result in again)


def test_other_numbers_are_another_graph():
    def make(plan: VolumeSensePlan) -> Call:
        numbers = [(0.3, 3, 0.0), (0.31, 3, 0.0), (0.3, 2, 0.0), (0.3, 3, 0.4)]
        return lambda turn: np.asarray(
            plan.data_consistent(image(0), *numbers[turn % 4][:2], tolerance=numbers[turn % 4][2])
        )

    before = live_graphs()
    plan, plain = make(volume()), without_graphs(lambda: make(volume()))
    results = [plan(turn) for turn in range(12)]
    for turn, result in enumerate(results):
        np.testing.assert_array_equal(result, plain(turn), strict=True)
    assert len({result.tobytes() for result in results}) == 4
    assert live_graphs() - before == 4


def test_graphs_end_with_their_plan_in_whatever_thread():
    def free_bytes() -> int:
        with open_device().use():
            return driver.mem_get_info()[0]

    def work() -> None:
        for make in PLANS:
            plan = make()
            for seed in range(3):
                plan(seed)

    work()  # what the pool holds it keeps
    before, free = live_graphs(), free_bytes()
    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert live_graphs() == before
    assert free_bytes() == free


def test_a_capture_that_is_broken_leaves_plain_launches(monkeypatch, caplog):
    original = volume_on_gpu.VolumeSensePlan._normal

    def waits(plan: Any, packed: np.uint64, stream: Any) -> None:
        original(plan, packed, stream)
        stream.synchronize()  # which no capture takes

    monkeypatch.setattr(volume_on_gpu.VolumeSensePlan, "_normal", waits)
    before = live_graphs()
    plan, plain = solve(), without_graphs(solve)
    for seed in (0, 1, 2, 3):
        np.testing.assert_array_equal(plan(seed), plain(seed), strict=True)
    (said,) = caplog.messages
    assert "one by one from here on" in said and "not permitted when stream is capturing" in said
    assert live_graphs() == before


def test_memory_that_is_short_leaves_plain_launches(monkeypatch, caplog):
    plan, plain = solve(), without_graphs(solve)
    expected = [plain(seed) for seed in range(4)]
    np.testing.assert_array_equal(plan(0), expected[0])
    with open_device().use():
        free, total = driver.mem_get_info()
    monkeypatch.setenv("EDGE_DRIVER_MEMORY", str(total - free))
    for seed in (1, 2, 3):
        np.testing.assert_array_equal(plan(seed), expected[seed])
    (said,) = caplog.messages
    assert "cuGraphInstantiateWithFlags answers 2" in said


def test_who_is_interrupted_in_a_capture_goes_on_afterwards(monkeypatch):
    plan = solve()
    expected = plan(0)
    original = volume_on_gpu.VolumeSensePlan._normal

    def interrupted(plan: Any, packed: np.uint64, stream: Any) -> None:
        original(plan, packed, stream)
        raise KeyboardInterrupt

    before = live_graphs()
    with monkeypatch.context() as patch:
        patch.setattr(volume_on_gpu.VolumeSensePlan, "_normal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            plan(0)
    assert live_graphs() == before
    for _ in range(2):
        np.testing.assert_array_equal(plan(0), expected)
    assert live_graphs() == before + 1


class Bytes:
    """A row of bytes in the GPU's memory."""

    def __init__(self, device: Device, count: int) -> None:
        self._device, self._count = device, count
        with device.use():
            self._memory = Memory(device)
            self._address = int(self._memory.room(count))

    def fill(self, at: int, value: int, stream: Any) -> None:
        driver.memset_d8_async(self._address + at, value, 1, stream)

    def fetch(self) -> list[int]:
        numbers: list[int] = self._device.fetch(self._address, self._count).tolist()
        return numbers


@pytest.fixture
def row() -> Iterator[Bytes]:
    device = open_device()
    row = Bytes(device, 3)
    with device.use():
        for at in range(3):
            row.fill(at, 0, device.stream)
        yield row


def test_no_more_graphs_are_kept_than_that(row):
    before = live_graphs()
    graphs = Graphs(open_device(), most=3)
    for value in range(10):
        for _ in range(3):
            graphs.launch(value, lambda stream, value=value: row.fill(0, value, stream))
            assert row.fetch() == [value, 0, 0]
        assert live_graphs() - before == min(value + 1, 3)
    graphs.launch(7, lambda stream: pytest.fail("its graph is there"))  # which is now the last that was used
    for value in (10, 11):
        graphs.launch(value, lambda stream, value=value: row.fill(0, value, stream))
    graphs.launch(7, lambda stream: pytest.fail("its graph is there"))
    assert row.fetch() == [7, 0, 0]
    del graphs
    assert live_graphs() == before


def test_a_graph_that_the_driver_does_not_launch_leaves_plain_launches(row, caplog):
    graphs = Graphs(open_device())
    for _ in range(2):
        graphs.launch("fill", lambda stream: row.fill(0, 1, stream))
    executable = graphs._kept["fill"]
    assert executable is not None
    assert ctypes.CDLL(DRIVER_LIBRARY).cuGraphExecDestroy(executable._handle) == 0
    for value in (2, 3):
        graphs.launch("fill", lambda stream, value=value: row.fill(0, value, stream))
        assert row.fetch() == [value, 0, 0]
    (said,) = caplog.messages
    assert "cuGraphLaunch answers 1" in said


def test_the_garbage_collector_may_free_memory_during_a_capture(row, capfd):
    cycle: list[Any] = [Bytes(open_device(), 1 << 20)]
    cycle.append(cycle)
    graphs = Graphs(open_device())

    def fill(stream: Any) -> None:
        row.fill(0, 1, stream)
        gc.collect()
        row.fill(1, 2, stream)

    graphs.launch("fill", fill)
    free, _ = driver.mem_get_info()
    del cycle
    graphs.launch("fill", fill)
    assert driver.mem_get_info()[0] > free
    row.fill(0, 0, open_device().stream)
    graphs.launch("fill", lambda stream: pytest.fail("there is no graph"))
    assert row.fetch() == [1, 2, 0]
    assert capfd.readouterr().err == ""


def test_other_threads_work_on_during_a_capture(row):
    """They make plans, launch in the same stream as ever, and wait for it; nothing of that comes into the graph."""
    device, graphs, made = open_device(), Graphs(open_device()), []

    def work() -> None:
        plan = CoilPlan(Workers(1), 2, 4, 4, device="cuda")
        ones = np.ones((2, 4, 4), np.complex64)
        made.append(
            plan.compress(ones, np.ones(4, bool), np.ones((1, 2), np.complex64), np.empty((1, 4, 4), np.complex64))
        )
        with device.use():
            row.fill(2, 9, device.stream)

    def fill(stream: Any) -> None:
        row.fill(0, 1, stream)
        if stream is not device.stream:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        row.fill(1, 2, stream)

    for _ in range(2):
        graphs.launch("fill", fill)
    np.testing.assert_array_equal(made, [np.full((1, 4, 4), 2)])
    assert row.fetch() == [1, 2, 9]
    for at in range(3):
        row.fill(at, 0, device.stream)
    graphs.launch("fill", lambda stream: pytest.fail("there is no graph"))
    assert row.fetch() == [1, 2, 0]


SOLVES = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stderr)
sys.path[:0] = {folders!r}
from sequences import solve
for plan in (solve(), solve()):
    for seed in (0, 1, 2):
        print(plan(seed).tobytes().hex())
"""


def test_a_driver_without_graphs_is_said_once_and_launches_kernels():
    here = Path(__file__).resolve().parent
    script = SOLVES.format(folders=[str(here), str(here.parent)])
    drivers = Path(os.environ["EDGE_DRIVER_KERNELS"]).resolve().parent

    def run(folder: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(drivers / folder)}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    with_graphs, without = run("driver"), run("driver-without-graphs")
    assert with_graphs.stdout == without.stdout != ""
    assert with_graphs.stderr == ""
    assert without.stderr == (
        "kernels are launched one by one: the driver has no cuStreamBeginCapture_v2, which graphs need: "
        "update to JetPack 6 or later\n"
    )
